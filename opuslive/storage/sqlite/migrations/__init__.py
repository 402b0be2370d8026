"""The schema, as numbered SQL files: each is applied once, in order, in a transaction of its own.

A file is never changed once it has been released; the next change is a file with the next
number. ``PRAGMA user_version`` of a database is the number of the last file applied to it.
"""
