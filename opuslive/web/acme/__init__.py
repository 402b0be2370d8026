"""The gateway's certificate, got and renewed by itself (ACME, RFC 8555; ARI, RFC 9773).

- ``schedule.py``: when to renew, when to try again: pure functions of times
- ``renewal.py``: does what is due, and tells how it stands
- ``authority.py``: what is said to the certificate authority, with the ``acme`` library
- ``transport.py``: how: bounded in time and size
- ``words.py``: what failed, in words for the administrator
- ``papers.py``: keys, requests and certificates as PEM
- ``store.py``: the files
- ``opening.py``: puts them together for a configuration
- ``forwarding.py``: the port of plain HTTP: answers the authority, sends everybody else to https

The libraries of the extra ``acme`` are imported by ``authority``, ``transport``, ``words`` and
``papers`` alone. ``renewal`` imports none of these: a gateway without the extra never loads them.
"""
