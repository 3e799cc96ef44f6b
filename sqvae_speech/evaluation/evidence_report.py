"""Evidence as Markdown: a row a representation, of one source or of several side by side."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqvae_speech.data.files import read_text
from sqvae_speech.errors import UserError

_SPANS = {"phone": "phone", "triphone": "triphone", "word": "word", "item": "items"}
_CONDITIONS = {
    "within_within": "within speaker, same context",
    "across_within": "across speakers, same context",
    "within_any": "within speaker, any context",
    "across_any": "across speakers, any context",
}
REPRESENTATION_NOTE = (
    "ABX: error in %, 50 is chance, with the number of triplets where they are fewer than 1000; same context: "
    "between the same neighbours. bit/s: frames a second times the entropy of different frames (ZeroSpeech 2019). "
    "Probes: accuracy of a linear classifier in %, and that of always naming the most frequent label; speakers are "
    "told apart on utterances that were not trained on, phones and words on speakers that were not."
)
UNIT_NOTE = (
    "PNMI: share of the uncertainty about the phone that the unit takes away. Purities: accuracy of the most "
    "frequent phone of each unit, and of the most frequent unit of each phone. Boundaries: where units change, "
    "against where phones do. Bits given the unit before, and the two before: by the frequencies of this set, too "
    "low where contexts are rare. Error: mean squared error of the decoded log-mel in dB²."
)
Column = tuple[str, Callable[[dict[str, Any]], str]]


def markdown(values: Sequence[dict[str, Any]]) -> str:
    """Tables of the values of one or more :class:`Evidence`; columns that nothing has are left out."""
    columns, rows = representation_columns(), representation_rows(values)
    text = "## Representations\n\n" + _table(columns, rows)
    text += f"\n{REPRESENTATION_NOTE}\n"
    if units := [one for one in values if one["units"]]:
        text += f"\n## Units\n\n{_table(UNIT_COLUMNS, units)}\n{UNIT_NOTE}\n"
    sets = "; ".join(dict.fromkeys(", ".join(one["shards"]) for one in values))
    first = values[0]
    return (
        f"# Evidence\n\n{first['utterances']} utterances of {first['speakers']} speakers, {first['seconds']:.0f} s, "
        f"of {sets}.\n\n{text}"
    )


def representation_rows(values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What :func:`representation_columns` are of: the scores of each representation of each source."""
    return [
        {"source": one, "kind": kind, **scores} for one in values for kind, scores in one["representations"].items()
    ]


def representation_columns() -> list[Column]:
    """Names of the scores of a representation, and how each is written; empty where there is none."""
    columns: list[Column] = [
        ("source", lambda row: row["source"]["name"]),
        ("representation", lambda row: row["kind"]),
        ("Hz", lambda row: f"{row['frame_rate']:g}"),
        ("bit/s", lambda row: f"{row['bitrate']:.0f}"),
    ]
    for span, what in _SPANS.items():
        for condition, how in _CONDITIONS.items():
            columns.append((f"ABX {what}, {how}", _abx_cell(span, condition)))
    return [*columns, *((f"{target} probe", _probe_cell(target)) for target in ("speaker", "phone", "word"))]


def _abx_cell(span: str, condition: str) -> Callable[[dict[str, Any]], str]:
    def cell(row: dict[str, Any]) -> str:
        score = ((row["abx"] or {}).get(span) or {}).get(condition)
        if score is None:
            return ""
        few = f" ({score['triplets']})" if score["triplets"] < 1000 else ""
        return f"{100 * score['error']:.2f}{few}"

    return cell


def _probe_cell(target: str) -> Callable[[dict[str, Any]], str]:
    def cell(row: dict[str, Any]) -> str:
        score = row["probes"].get(target)
        return "" if score is None else f"{100 * score['accuracy']:.1f} ({100 * score['chance']:.1f})"

    return cell


def _value(group: str | None, name: str, digits: int, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    def cell(one: dict[str, Any]) -> str:
        scores = one["units"] if group is None else one["units"][group]
        value = None if scores is None else scores[name]
        return "" if value is None else f"{scale * value:.{digits}f}"

    return cell


def _bits(order: int) -> Callable[[dict[str, Any]], str]:
    def cell(one: dict[str, Any]) -> str:
        return next((f"{rate['bits']:.2f}" for rate in one["units"]["entropy_rate"] if rate["order"] == order), "")

    return cell


def _codes(one: dict[str, Any]) -> str:
    units = one["units"]
    books = f"{units['num_codebooks']} x " if units["num_codebooks"] > 1 else ""
    return f"{books}{units['codebook_size']}"


def _mean(name: str, digits: int) -> Callable[[dict[str, Any]], str]:
    return lambda one: f"{sum(one['units'][name]) / len(one['units'][name]):.{digits}f}"


UNIT_COLUMNS: list[Column] = [
    ("source", lambda one: one["name"]),
    ("codes", _codes),
    ("bit/s", _value(None, "bitrate", 1)),
    ("perplexity", _mean("perplexity", 1)),
    ("usage", _mean("usage", 2)),
    ("unit (ms)", _value(None, "mean_duration", 1, 1000.0)),
    ("PNMI", _value("unit_phone", "pnmi", 3)),
    ("phone purity", _value("unit_phone", "phone_purity", 3)),
    ("cluster purity", _value("unit_phone", "cluster_purity", 3)),
    ("boundary precision", _value("boundaries", "precision", 3)),
    ("recall", _value("boundaries", "recall", 3)),
    ("F1", _value("boundaries", "f1", 3)),
    ("R-value", _value("boundaries", "r_value", 3)),
    ("bits a unit", _bits(1)),
    ("given 1", _bits(2)),
    ("given 2", _bits(3)),
    ("error (dB²)", lambda one: "" if one["error_db2"] is None else f"{one['error_db2']:.2f}"),
]


def _table(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> str:
    cells = [[cell(row) for _, cell in columns] for row in rows]
    shown = [place for place in range(len(columns)) if any(row[place] for row in cells)]
    lines = ["| " + " | ".join(columns[place][0] for place in shown) + " |"]
    lines.append("|" + "|".join("---" if place < 2 else "---:" for place in shown) + "|")
    lines += ["| " + " | ".join(row[place] or "n/a" for place in shown) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def read_evidence(path: str | os.PathLike) -> dict[str, Any]:
    """Values that :func:`sqvae_speech.evaluation.evidence_files.write_evidence` wrote.

    Raises:
        UserError: no such file, or another one.
    """
    try:
        values = json.loads(read_text(Path(path)))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); `sqvae-speech evaluate` writes one") from None
    if not isinstance(values, dict) or "representations" not in values:
        raise UserError(f"{path} is not of `sqvae-speech evaluate`; give the JSON files that it wrote")
    return values
