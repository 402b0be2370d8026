"""For all tests: no example of a property is held to a time; a busy machine takes its own."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
