"""What is wrong with an installation, and how to mend it: behind ``opuslive check`` and ``init``.

``checkup`` has the one list of what is looked at. The other modules each look at one kind of
thing: facts are gathered, and then judged by functions that do nothing else.
"""
