"""A Markdown page whose numbers come from sweeps: prose with places to be filled in, so that no figure is typed.

=====================================================  ========================================================
place                                                  what is written there
=====================================================  ========================================================
``{{table SWEEP}}``                                    all rows of its results
``{{value SWEEP | RUN | COLUMN}}``                     a cell of them
``{{change SWEEP | RUN | COLUMN | REFERENCE}}``        how it differs from that of another run: ``-25%``, ``+3%``
``{{fact NAME}}``                                      what the caller says
=====================================================  ========================================================
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqvae_speech.data.files import read_text
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.experiments.tables import markdown_table, number

Results = Mapping[str, Any]  # of a results.json
_PLACE = re.compile(r"\{\{\s*(\w+)\s+(.*?)\s*\}\}")


def read_results(path: str | Path) -> Results:
    """What a sweep wrote: its ``results.json``, or the folder with it.

    Raises:
        UserError: no such file, or none of a sweep.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged or not of a sweep ({error})") from error
    if not isinstance(values, dict) or not {"columns", "results", "trials"} <= set(values):
        raise UserError(f"{path} is not the results.json of a sweep (sqvae-speech sweep --output DIR writes it)")
    return values


def fill(template: str, sweeps: Mapping[str, Results], facts: Mapping[str, str]) -> str:
    """A template with all its places filled in.

    Args:
        template: Markdown.
        sweeps: name -> results.
        facts: name -> text.

    Raises:
        UserError: a place that names what there is not.
    """

    def write(match: re.Match) -> str:
        kind, words = match[1], [word.strip() for word in match[2].split("|")]
        if kind == "fact":
            return _known(" ".join(words), facts, match[0])
        if kind not in _WRITERS:
            legal = ("fact", *_WRITERS)
            raise UserError(f"{match[0]}: no kind {kind!r}{nearest(kind, legal)}; legal: {', '.join(legal)}")
        count, writer = _WRITERS[kind]
        if len(words) != count:
            raise UserError(f"{match[0]}: {kind} takes {count} words with | between them, got {len(words)}")
        return writer(_known(words[0], sweeps, match[0]), words[1:], match[0])

    return _PLACE.sub(write, template)


def table(results: Results) -> str:
    """The rows of results as a table; mean and standard deviation where there are several seeds."""
    columns, rows = _columns(results), results["results"]
    seeds = any(_seeds(row) > 1 for row in rows)
    body = [
        [row["group"], *(_cell(results, row, name) for name in columns), *([str(_seeds(row))] if seeds else [])]
        for row in rows
    ]
    return markdown_table(["run", *columns, *(["seeds"] if seeds else [])], body).rstrip("\n")


def _columns(results: Results) -> list[str]:
    return list(results["columns"] or dict.fromkeys(name for row in results["results"] for name in row["mean"]))


def _seeds(row: Mapping[str, Any]) -> int:
    return max(map(len, row["values"].values()), default=0)


def _cell(results: Results, row: Mapping[str, Any], column: str) -> str:
    form = results["columns"].get(column, "").partition(":")[2]
    mean, spread = row["mean"].get(column), row["std"].get(column)
    written = [format(value, form) if form else number(value) for value in (mean, spread) if value is not None]
    return " ± ".join(written)


def _row(results: Results, run: str, place: str) -> Mapping[str, Any]:
    rows = {row["group"]: row for row in results["results"]}  # of several steps the last
    return _known(run, rows, place)


def _known(name: str, known: Mapping[str, Any], place: str) -> Any:
    if name not in known:
        raise UserError(f"{place}: there is no {name!r}{nearest(name, known)}; there are: {', '.join(known)}")
    return known[name]


def _table(results: Results, words: Sequence[str], place: str) -> str:
    return table(results)


def _value(results: Results, words: Sequence[str], place: str) -> str:
    run, column = words
    _known(column, dict.fromkeys(_columns(results)), place)
    return _cell(results, _row(results, run, place), column)


def _change(results: Results, words: Sequence[str], place: str) -> str:
    run, column, reference = words
    _known(column, dict.fromkeys(_columns(results)), place)
    ours, theirs = (_row(results, name, place)["mean"].get(column) for name in (run, reference))
    if ours is None or not theirs:
        raise UserError(f"{place}: {run} and {reference} do not both have the column {column!r}")
    return f"{ours / theirs - 1:+.0%}"


# kind -> how many words it takes, and what writes it
_WRITERS: dict[str, tuple[int, Callable[[Results, Sequence[str], str], str]]] = {
    "table": (1, _table),
    "value": (3, _value),
    "change": (4, _change),
}
