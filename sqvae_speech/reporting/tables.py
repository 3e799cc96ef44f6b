"""Tables of scores, those of a run beside those of its peers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqvae_speech.evaluation.evidence_report import (
    REPRESENTATION_NOTE,
    UNIT_COLUMNS,
    UNIT_NOTE,
    Column,
    representation_columns,
    representation_rows,
)


@dataclass(frozen=True)
class Row:
    """Of a table.

    Attributes:
        name: in the first column.
        cells: the others.
        best: numbers of those cells that are best, where better can be told.
        group: of rows, which a line above the first of them names.
    """

    name: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()
    group: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        caption: what it is of.
        corner: above the first column.
        header: above the others.
        rows: of as many cells as the header.
        note: how to read it.
        own: numbers of the columns that are of the run that the page is about.
    """

    caption: str
    corner: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    own: frozenset[int] = frozenset()

    @property
    def of_words(self) -> frozenset[int]:
        """Numbers of the columns that hold words, not numbers."""
        columns = enumerate(zip(*(row.cells for row in self.rows), strict=True))
        filled = ((number, [cell for cell in cells if cell]) for number, cells in columns)
        return frozenset(
            number
            for number, cells in filled
            if cells and sum(_leading_number(cell) is None or ", " in cell for cell in cells) > len(cells) / 2
        )


# by the beginning of a column's name
_LOWER = ("ABX", "error")
_HIGHER = (
    "PNMI",
    "phone purity",
    "cluster purity",
    "boundary",
    "recall",
    "F1",
    "R-value",
    "phone probe",
    "word probe",
)


def representation_table(evidence: Sequence[dict[str, Any]], own: int = 1) -> Table | None:
    """Scores of the representations of one or more evaluations, a column each.

    Args:
        evidence: what ``sqvae-speech evaluate`` wrote.
        own: how many of them, from the first, are of the run itself.

    Returns:
        None without an evaluation.
    """
    rows = representation_rows(evidence)
    names = [f"{row['source']['name']}: {row['kind']}" for row in rows]
    mine = frozenset(n for n, row in enumerate(rows) if any(row["source"] is one for one in evidence[:own]))
    table = _turned("Representations", rows, names, representation_columns()[2:], REPRESENTATION_NOTE)
    return None if table is None else replace(table, own=mine)


def unit_table(evidence: Sequence[dict[str, Any]], own: int = 1) -> Table | None:
    """Scores of the units of one or more evaluations, a column each; see :func:`representation_table`."""
    rows = [one for one in evidence if one.get("units")]
    mine = frozenset(n for n, row in enumerate(rows) if any(row is one for one in evidence[:own]))
    table = _turned("Units", rows, [str(row["name"]) for row in rows], UNIT_COLUMNS[1:], UNIT_NOTE)
    return None if table is None else replace(table, own=mine)


def different_sets(evidence: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the evaluations that were not made on what the first was made on: their numbers do not compare."""

    def measured_on(one: Mapping[str, Any]) -> tuple[Any, ...]:
        folders = one.get("shards")
        splits = [str(folder).rpartition("/")[2] for folder in folders] if isinstance(folders, list) else folders
        # features of different length give slightly different numbers of seconds
        return splits, one.get("utterances"), one.get("speakers")

    return [str(one.get("name")) for one in evidence[1:] if measured_on(one) != measured_on(evidence[0])]


def split_table(scores: Mapping[str, Any]) -> Table | None:
    """What ``sqvae-speech score`` says of each split, a column each; of speech, images or label maps."""
    splits = scores["splits"]
    header, columns = [], []
    for split in splits:
        for voice in ("", *split.get("target_error_db2", {})):
            if voice or split.get("error_db2", True):
                header.append(f"{split.get('split')}{f', as {voice}' if voice else ''}")
                columns.append((split, voice))
    rows = []
    for name, form, find in _SPLIT_ROWS:
        values = [_found(find, *column) for column in columns]
        if any(value is not None for value in values):
            cells = tuple("" if value is None else format(value, form) for value in values)
            rows.append(Row(name, cells))
    if not rows:
        return None
    note = "Deterministic codes. Perplexity: of the codes chosen."
    if any(row.name == "bit/s" for row in rows):
        note += " bit/s: units a second times their entropy (ZeroSpeech 2019)."
    return Table("Reconstruction and codes", "", tuple(header), tuple(rows), note)


_SPLIT_ROWS: tuple[tuple[str, str, Callable[[Any, str], Any]], ...] = (
    ("utterances", ",", lambda split, voice: split["utterances"]),
    ("images", ",", lambda split, voice: split["images"]),
    (
        "error (dB²)",
        ".2f",
        lambda split, voice: (split["target_error_db2"][voice] if voice else split["error_db2"])["pooled"],
    ),
    ("squared error (× 1e-3)", ".3f", lambda split, voice: 1000 * split["pixels"]["mse"]),
    ("PSNR (dB)", ".2f", lambda split, voice: split["pixels"]["psnr"]),
    ("SSIM", ".4f", lambda split, voice: split["pixels"]["ssim"]),
    ("LPIPS", ".4f", lambda split, voice: split["pixels"]["lpips"]),
    ("FID", ".2f", lambda split, voice: split["pixels"]["fid"]),
    ("pixel accuracy", ".4f", lambda split, voice: split["labels"]["accuracy"]),
    ("mIoU", ".4f", lambda split, voice: split["labels"]["miou"]),
    ("perplexity", ".1f", lambda split, voice: split["codebook"]["perplexity"]),
    ("perplexity of the mean posterior", ".1f", lambda split, voice: split["codebook"]["perplexity_posterior"]),
    ("entropy of a posterior (nats)", ".2f", lambda split, voice: split["codebook"]["posterior_entropy"]),
    ("codes used", "d", lambda split, voice: split["codebook"]["used"]),
    ("bit/s", ".1f", lambda split, voice: split["units"]["bitrate"]),
    ("bit/s, repeats once", ".1f", lambda split, voice: split["units"]["bitrate_deduplicated"]),
    ("units a second", ".1f", lambda split, voice: split["units"]["units"] / split["units"]["seconds"]),
    ("length of a unit (ms)", ".1f", lambda split, voice: 1000 * split["units"]["durations"]["mean_seconds"]),
    ("bits an image", ".1f", lambda split, voice: split["entropy_bits_per_image"]),
    ("bits a dimension", ".3f", lambda split, voice: split["bits_per_dim"]),
)


def language_model_table(scores: Mapping[str, Any]) -> Table | None:
    """What ``sqvae-speech lm score`` says, a column a model, a row a split."""
    splits = [split for split in scores["splits"] if isinstance(split.get("scores"), dict)]
    names = list(dict.fromkeys(name for split in splits for name in split["scores"]))
    rows = []
    for split in splits:
        bits = [_found(lambda one, name: one["scores"][name]["bits_per_unit"], split, name) for name in names]
        best = best_of(bits, lower=True)
        cells = tuple("" if value is None else f"{value:.3f}" for value in bits)
        rows.append(Row(str(split.get("split")), cells, best))
    if not names:
        return None
    return Table("Language models over the units: bits a unit", "split", tuple(names), tuple(rows))


def voice_table(voices: Mapping[str, Any]) -> Table | None:
    """What ``sqvae-speech evaluate voices`` says, a column each folder and kind of its wavs."""
    header: list[str] = []
    groups: list[Mapping[str, Any]] = []
    for name, folder in voices["folders"].items():
        for group, scores in folder["groups"].items():
            header.append(f"{name}, {group}")
            groups.append(scores)
        for title, scores in (("against the target", folder["truth"]), ("against the original", folder["copies"])):
            if scores is not None:
                header.append(f"{name}, {title}")
                groups.append({**scores, **(scores.get("converted") or scores.get("distance") or {})})
    rows = []
    for title, key, form in _VOICE_ROWS:
        values = [_found(lambda one, key: one[key], one, key) for one in groups]
        if any(value is not None for value in values):
            rows.append(Row(title, tuple("" if value is None else format(value, form) for value in values)))
    note = "Judged by networks that were trained on other, real recordings. MCD: mel-cepstral distortion without c0."
    return Table("Voices", "", tuple(header), tuple(rows), note) if rows else None


_VOICE_ROWS = (
    ("recordings", "recordings", ",d"),
    ("pairs", "pairs", ",d"),
    ("in the right voice", "in_voice", ".1%"),
    ("cosine with it", "similarity", ".2f"),
    ("cosine with the source's", "similarity_to_source", ".2f"),
    ("words recognised", "words_recognised", ".1%"),
    ("MCD (dB)", "mcd", ".2f"),
    ("F0 (cents)", "cents", ".0f"),
    ("voicing error", "voicing_error", ".1%"),
    ("MCD of the source over it", "factor", ".2f"),
    ("STOI", "stoi", ".3f"),
    ("PESQ", "pesq", ".2f"),
)


def _found(find: Callable[[Any, str], Any], split: Any, voice: str) -> float | None:
    """A number, or None: scores of images lack what those of speech have, old ones what new ones have."""
    try:
        value = find(split, voice)
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _turned(
    caption: str, rows: Sequence[dict[str, Any]], names: Sequence[str], columns: Sequence[Column], note: str
) -> Table | None:
    """Columns of a table for a terminal as rows of one for a page."""
    found = []
    for name, cell in columns:
        cells = tuple(_cell(cell, row) for row in rows)
        if any(cells):
            group, rest = "", name
            if name.startswith("ABX"):
                group, _, rest = name.partition(", ")
                group += ", error in % (triplets, where few)"
            elif name.endswith(" probe"):
                group, rest = "Linear probes, accuracy in % (of the most frequent label)", name.removesuffix(" probe")
            values = [_leading_number(text) for text in cells]
            best = (
                best_of(values, lower=name.startswith(_LOWER)) if name.startswith(_LOWER + _HIGHER) else frozenset()
            )
            found.append(Row(rest, cells, best, group))
    return Table(caption, "", tuple(names), tuple(found), note) if found else None


def _cell(write: Callable[[dict[str, Any]], str], row: dict[str, Any]) -> str:
    try:
        return write(row)
    except (KeyError, TypeError, ValueError, StopIteration):  # of another version
        return ""


def _leading_number(text: str) -> float | None:
    found = re.match(r"-?\d+(\.\d+)?", text)
    return float(found[0]) if found else None


def best_of(values: Sequence[float | None], *, lower: bool) -> frozenset[int]:
    """Numbers of the best of several values; none where there is nothing to choose, or all are equal."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return frozenset()
    best = min(known) if lower else max(known)
    return frozenset(number for number, value in enumerate(values) if value == best)
