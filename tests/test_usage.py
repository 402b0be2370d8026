"""Rows of CSV files.

A fault of this kind is any text that a spreadsheet takes for a formula, in any CSV that is
written: the report of ``opuslive usage``, and exports over HTTP. Names of keys are the
administrator's; names of models may be anything that a provider lists.
"""

from __future__ import annotations

import pytest

from opuslive.usage import csv_row


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1",
        '=HYPERLINK("http://x")',
        "-",
    ],
)
def test_a_text_that_would_be_a_formula_gets_an_apostrophe(text: str) -> None:
    assert csv_row({"name": text}) == {"name": "'" + text}


@pytest.mark.parametrize(
    "cell", ["claude-opus-4-8", "1-1", "'=1", "", " =", "2026-01-01", "é=", None, 0, -1, -0.5, 12]
)
def test_other_texts_and_numbers_stay(cell: object) -> None:
    assert csv_row({"cell": cell}) == {"cell": cell}
