"""Tables for people, as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def format_table(rows: Iterable[Sequence[object]], headers: Sequence[str]) -> str:
    """Return an aligned table: a header, a rule, the rows; columns of numbers to the right.

    A column is one of numbers where every cell that is neither empty nor "-" starts with a digit,
    a sign or a point.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(headers, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [
        all(cell[0] in "+-.0123456789" for cell in column[1:] if cell not in ("", "-"))
        for column in columns
    ]

    def line(row: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, right)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join(map(line, [headers, ["-" * width for width in widths], *cells]))


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    """Return a Markdown table of names and what they are, without headings."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, all columns but the first to the right."""
    rule = ["---", *("---:" for _ in headers[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headers, rule, *rows))
