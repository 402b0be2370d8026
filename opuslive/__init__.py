"""OpusLive: an API gateway that gives managed access to AI language models."""
