"""Tables as text for a terminal, as Markdown, and as CSV."""

import csv
import io
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def text_table(header: Sequence[str], rows: Rows) -> str:
    """Columns side by side; those of numbers are aligned to the right."""
    right = [_numeric([row[number] for row in rows]) for number in range(len(header))]
    widths = [max(len(row[number]) for row in (header, *rows)) for number in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if aligned else cell.ljust(width)
            for cell, width, aligned in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def markdown_table(header: Sequence[str], rows: Rows) -> str:
    """A table of GitHub's Markdown; columns of numbers are aligned to the right."""
    right = [_numeric([row[number] for row in rows]) for number in range(len(header))]
    lines = [header, ["---:" if aligned else "---" for aligned in right], *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def csv_table(header: Sequence[str], rows: Rows) -> str:
    """Comma-separated, quoted where needed (RFC 4180, but lines end with a line feed alone)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def number(value: float) -> str:
    """Four significant digits, whole numbers whole: ``0.001234``, ``20000``, ``-1698``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (abs(value) >= 1000 and abs(value) < 1e9):
        return f"{value:.0f}"
    return f"{value:.4g}"


def _numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(cell.lstrip("-")[:1].isdigit() for cell in filled)
