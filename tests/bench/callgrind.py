"""Callgrind, told from inside the program that it runs what to count.

Valgrind hears of a program by instructions that do nothing anywhere else (``valgrind.h``: four
rotations of a register, by 128 bits together, and an exchange of one with itself). They are here as
machine code of x86-64, so that no compiler is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
from collections.abc import Callable, Iterator

#: mov rax, rdi; xor edx, edx; rol rdi, 3; rol rdi, 13; rol rdi, 61; rol rdi, 51; xchg rbx, rbx;
#: mov rax, rdx; ret
_CODE = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
#: The tool's letters, and the numbers of its requests, from ``callgrind.h``.
_CALLGRIND = ord("C") << 24 | ord("T") << 16
_DUMP_AT, _ZERO, _START, _STOP = (_CALLGRIND + number for number in (3, 1, 4, 5))
#: Whether a program runs under valgrind at all (``valgrind.h``).
_RUNNING = 0x1001


class Callgrind:
    """Counts sections of this process; it does nothing outside of callgrind."""

    def __init__(self, ask: Callable[..., int] | None, page: mmap.mmap | None = None) -> None:
        """``page`` is where the code of ``ask`` is: it has to stay for as long."""
        self._ask = ask
        self._page = page

    @classmethod
    def here(cls) -> Callgrind:
        if not available_machine():
            return cls(None)
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(_CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        function = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(address)

        def ask(request: int, argument: int = 0) -> int:
            arguments = (ctypes.c_size_t * 6)(request, argument, 0, 0, 0, 0)
            return int(function(ctypes.addressof(arguments)))

        return cls(ask if ask(_RUNNING) else None, page)

    @contextlib.contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Count what happens inside, and write it to a file that says the name."""
        if self._ask is None:
            yield
            return
        text = ctypes.create_string_buffer(name.encode())
        self._ask(_START)
        self._ask(_ZERO)
        yield
        self._ask(_DUMP_AT, ctypes.addressof(text))
        self._ask(_STOP)


def available_machine() -> bool:
    """Whether this machine's instructions are those that are written here."""
    return platform.machine() == "x86_64" and os.name == "posix"
