from __future__ import annotations

import pytest

from pipelines.tables import format_table


def test_text_stands_left_and_numbers_right() -> None:
    rows = [("apartment", 1000, "81.5%", "ok"), ("7-room", 20, "-", ""), ("", 1020, "", "")]
    assert format_table(rows, ("scene", "pairs", "accepted", "state")) == "\n".join(
        [
            "scene      pairs  accepted  state",
            "---------  -----  --------  -----",
            "apartment   1000     81.5%  ok",
            "7-room        20         -",
            "            1020",
        ]
    )


def test_a_table_without_rows_is_its_header() -> None:
    assert format_table([], ("a", "bc")) == "a  bc\n-  --"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        format_table([("x", "y")], ("a",))
