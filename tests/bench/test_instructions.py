"""An exchange takes no more instructions than it did: what a clock can't see on a busy machine."""

from __future__ import annotations

import sys
import sysconfig
from types import MappingProxyType

import pytest

from tests.bench import instructions

#: Python, and whether it was built with its own profile → the ratios to the reference loop, of a
#: JSON request and of a streamed chunk. "python -m tests.bench instructions" prints them. Whoever
#: makes an exchange cheaper, or has a reason to make it dearer, writes the new ones here.
RATIOS = MappingProxyType({((3, 11), False): (0.642, 0.01353)})
#: How much of that a ratio may differ. Two counts of the same code differ by 0.3 %.
TOLERANCE = 0.03

BUILD = (sys.version_info[:2], "--enable-optimizations" in sysconfig.get_config_var("CONFIG_ARGS"))


@pytest.mark.long
@pytest.mark.skipif(instructions.missing() is not None, reason=str(instructions.missing()))
@pytest.mark.skipif(BUILD not in RATIOS, reason="no ratio is known for this build of Python")
def test_an_exchange_takes_as_many_instructions_as_before() -> None:
    counted = instructions.count()
    request, chunk = RATIOS[BUILD]
    assert counted.request_ratio == pytest.approx(request, rel=TOLERANCE), str(counted)
    assert counted.chunk_ratio == pytest.approx(chunk, rel=TOLERANCE), str(counted)
