"""What the process may leave behind of its memory, which holds prompts and credentials."""

from __future__ import annotations

import ctypes
import resource
import sys

#: From <linux/prctl.h>.
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Let no crash write this process's memory to disk.

    A limit of 0 keeps the kernel from writing a file, but not from handing the memory to a
    program (``|`` in core_pattern, as systemd and Ubuntu have it): on Linux the process is made
    undumpable besides. Other processes of the same user can't read its memory or its environment
    then either; /proc/PID belongs to root.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # It can't fail with these arguments; where there is no prctl there is no way to do it.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
