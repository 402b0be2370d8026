"""Tools for the maintainers of OpusLive, and what they share with the tests."""
