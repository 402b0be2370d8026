"""The benchmark's table and its JSON."""

from __future__ import annotations

import json

import pytest

from tests.bench import tables
from tests.bench.figures import WHOLE
from tests.bench.subjects import Beside

RESULTS = {
    "saturated": {"nginx": [20.0, 22.0, 18.0], "OpusLive": [200.0, 110.0, 180.0]},
    "idle": {"nginx": [5.2], "OpusLive": [41.0]},
    "tls": {"OpusLive": [150.0]},
}


def test_a_ratio_is_of_the_same_round() -> None:
    assert tables.ratio(RESULTS, "saturated", "OpusLive") == 10.0
    assert tables.ratio(RESULTS, "idle", "OpusLive") is None
    assert tables.ratio(RESULTS, "tls", "OpusLive") is None


def test_the_table_has_a_row_for_what_was_measured() -> None:
    head, line, *rows = tables.markdown(RESULTS, WHOLE).splitlines()
    assert head == "|  | nginx | OpusLive |"
    assert line == "| --- | --- | --- |"
    cells = [row.strip("| ").split(" | ")[1:] for row in rows]
    assert cells == [["20.0 µs", "180 µs (10.00 ×)"], ["–", "150 µs"], ["5 MB", "41 MB"]]


def test_the_document_is_json_with_every_round() -> None:
    document = json.loads(json.dumps(tables.document(RESULTS, WHOLE)))
    figure = document["figures"]["saturated"]["OpusLive"]
    assert figure == {"median": 180.0, "rounds": [200.0, 110.0, 180.0], "ratio": 10.0}
    assert document["machine"]["cores"] > 0


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("mine=run --port {port}", Beside("mine", "run --port {port}")),
        ("mine@/v2/x=run a=b", Beside("mine", "run a=b", "/v2/x")),
    ],
)
def test_another_proxy_is_named_with_its_command(text: str, parsed: Beside) -> None:
    assert Beside.parse(text) == parsed


@pytest.mark.parametrize("text", ["mine", "=run", "mine=", ""])
def test_what_is_no_command_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="write NAME=COMMAND"):
        Beside.parse(text)
