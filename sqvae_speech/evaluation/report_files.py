"""Files of reports: scores as JSON for programs, and beside it a Markdown table for people."""

import json
import os
from pathlib import Path
from typing import Any

from sqvae_speech.data.files import write_text


def write_report(path: str | os.PathLike, values: dict[str, Any], table: str) -> list[Path]:
    """Write ``path`` (JSON) and the same name with ``.md``; returns both."""
    path = Path(path)
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    write_text(path.with_suffix(".md"), table)
    return [path, path.with_suffix(".md")]


def number(value: float | None, digits: int) -> str:
    """Return a cell of a table."""
    return "n/a" if value is None else f"{value:.{digits}f}"
