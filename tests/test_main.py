"""The process begins: its modules are loaded, and somebody may press Ctrl-C meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Interrupts the process when this module is about to be loaded.
INTERRUPT = """
import signal, sys
module = sys.argv.pop(1)
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Impatient())
from opuslive.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["opuslive.cli", "aiohttp", "opuslive.cli.process"])
def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_word(module: str) -> None:
    environ = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, module, "serve"],
        env=environ,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
