"""How the process keeps its memory, which holds prompts and credentials, from the disk."""

from __future__ import annotations

import ctypes
import resource
import sys

#: From <linux/prctl.h>.
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Let no crash write this process's memory to disk.

    A limit of 0 keeps the kernel from writing a file, but not from handing the memory to a
    program (``|`` in core_pattern, as systemd and Ubuntu set it). So on Linux the process is made
    undumpable, too: then /proc/PID belongs to root, and other processes of the same user can read
    neither memory nor environment.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # With these arguments prctl can't fail.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
