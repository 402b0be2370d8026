"""OpusLive: an API gateway that gives managed access to AI language models."""

#: The status of what Ctrl-C ended: 128, and the number of SIGINT.
INTERRUPTED = 130
