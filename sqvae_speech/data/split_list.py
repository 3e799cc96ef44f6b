"""``splits.tsv``: which utterance is in which split, how that was decided, and deciding it by such a list.

Lines ``utterance<TAB>speaker<TAB>split``, in the order of the ids, after a comment with the method and a heading::

    # method sentences, fraction 0.05, seed 0
    utterance	speaker	split
    p225-003	p225	train
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqvae_speech.data.files import read_text, write_text
from sqvae_speech.data.kaldi import Utterance
from sqvae_speech.data.splits import SPLITS
from sqvae_speech.errors import UserError, nearest

NAME = "splits.tsv"
NONE = "none"  # in a list: to be in no split
LEGAL = (*SPLITS, NONE)
HEADING = ("utterance", "speaker", "split")


@dataclass(frozen=True)
class Division:
    """How utterances came into their splits.

    Attributes:
        method: in a word or two, such as ``sentences``, ``speakers``, ``as in the corpus``.
        fraction, seed: what it was done with; None where there is no such thing.
        split_list: a file that says it instead, see :func:`read_split_list`.
    """

    method: str
    fraction: float | None = None
    seed: int | None = None
    split_list: str | Path | None = None

    def __str__(self) -> str:
        if self.split_list is not None:
            return f"method list, list {Path(self.split_list).name}"
        values = [("method", self.method), ("fraction", self.fraction), ("seed", self.seed)]
        return ", ".join(f"{name} {value}" for name, value in values if value is not None)


def write_split_list(path: Path, splits: Mapping[str, Iterable[Utterance]], division: Division) -> None:
    """Write the list of all utterances."""
    rows = sorted((u.utterance_id, u.speaker, split) for split, utterances in splits.items() for u in utterances)
    lines = [f"# {division}", "\t".join(HEADING), *("\t".join(row) for row in rows)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_split_list(path: str | Path) -> dict[str, tuple[str | None, str]]:
    """Return ``{utterance: (speaker, split)}`` of a list as this module writes it, by hand or by another tool.

    The columns are separated by white space; the speaker may be left out (None then). Empty lines, lines that begin
    with ``#`` and the heading say nothing. The split is one of :data:`LEGAL`; with ``none`` an utterance is left out.

    Raises:
        UserError: no such file, a line of another form, an unknown split, an utterance in two lines.
    """
    listed: dict[str, tuple[str | None, str]] = {}
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        columns = line.split()
        if not columns or line.startswith("#") or (columns[0], columns[-1]) == (HEADING[0], HEADING[-1]):
            continue
        if len(columns) not in (2, 3):
            raise UserError(f"{path}:{number}: {line!r} should be '<utterance> <speaker> <split>' (--split-list)")
        name, split = columns[0], columns[-1]
        if split not in LEGAL:
            raise UserError(
                f"{path}:{number}: unknown split {split!r}{nearest(split, LEGAL)}; legal are {', '.join(LEGAL)}"
            )
        if name in listed:
            raise UserError(f"{path}:{number}: {name!r} is listed twice; keep one of its lines")
        listed[name] = (columns[1] if len(columns) == 3 else None, split)
    if not listed:
        raise UserError(f"{path} lists no utterance (--split-list)")
    return listed


def divide_by_list(
    utterances: Iterable[Utterance], path: str | Path
) -> tuple[dict[str, list[Utterance]], list[Utterance]]:
    """Return the splits that a list makes of utterances, and those that it puts into none.

    Raises:
        UserError: what :func:`read_split_list` refuses; an utterance that is listed and not there, or there and not
            listed, or listed with another speaker.
    """
    listed = read_split_list(path)
    found = {utterance.utterance_id: utterance for utterance in utterances}
    unknown = [name for name in listed if name not in found]
    if unknown:
        raise UserError(
            f"{path} lists {_some(unknown)} that the corpus does not have or that its rules leave out"
            f"{nearest(unknown[0], found)}. Remove the lines, or give the options that the list was made with"
        )
    missing = [name for name in found if name not in listed]
    if missing:
        raise UserError(
            f"{path} does not list {_some(missing)} of the corpus; list them, with split {NONE} to leave out"
        )
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    none: list[Utterance] = []
    for name, utterance in found.items():
        speaker, split = listed[name]
        if speaker not in (None, utterance.speaker):
            raise UserError(
                f"{path}: {name!r} is of speaker {speaker!r} there, of {utterance.speaker!r} in the corpus"
            )
        (none if split == NONE else splits[split]).append(utterance)
    return splits, none


def _some(names: list[str]) -> str:
    examples = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} utterance{'' if len(names) == 1 else 's'} ({examples})"
