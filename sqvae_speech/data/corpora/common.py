"""What the corpora share: the report of what became of every recording, dividing, and writing the splits."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqvae_speech.audio.wav import wav_info
from sqvae_speech.data.files import write_text
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.split_list import NAME, Division, divide_by_list, write_split_list
from sqvae_speech.data.splits import SPLITS, Item, split_by_sentence, split_by_speaker
from sqvae_speech.data.tables import format_table
from sqvae_speech.errors import UserError

TESTS = ("utterances", "speakers")
HEADINGS = ("split", "utterances", "speakers", "hours", "shortest s", "longest s")


@dataclass(frozen=True)
class LeftOut:
    """A recording that is not in any split.

    Attributes:
        name: path inside the corpus.
        reason: why.
        damaged: True for a recording that should be usable and is not (counts against ``max_bad``), False for one
            that the corpus' rules leave out.
    """

    name: str
    reason: str
    damaged: bool = False


@dataclass
class Preparation:
    """What a corpus gave: its splits, and everything it left out with the reason."""

    splits: dict[str, DataDir]
    left_out: list[LeftOut] = field(default_factory=list)

    def summary(self) -> str:
        """Return a table of the splits, and what was left out: how many recordings for each reason."""
        rows = [_row(split, data) for split, data in self.splits.items()]
        if len(rows) > 1:
            rows.append(_row("all", [utterance for data in self.splits.values() for utterance in data]))
        lines = [format_table(HEADINGS, rows)]
        ruled = Counter(item.reason for item in self.left_out if not item.damaged)
        damaged = [item for item in self.left_out if item.damaged]
        if self.left_out:
            lines += ["", f"left out: {len(self.left_out)} recording{'s' if len(self.left_out) > 1 else ''}"]
        width = len(str(max([*ruled.values(), 1])))
        for reason, count in sorted(ruled.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"  {count:>{width}}  {reason}")
        lines += [f"  {1:>{width}}  damaged: {item.reason}" for item in damaged]
        return "\n".join(lines)


def _row(split: str, utterances: Iterable[Utterance]) -> list[str]:
    utterances = list(utterances)
    speakers = len({utterance.speaker for utterance in utterances})
    seconds = [utterance.duration for utterance in utterances if utterance.duration is not None]
    if len(seconds) < len(utterances):
        return [split, str(len(utterances)), str(speakers), "unknown", "", ""]
    hours, shortest, longest = sum(seconds) / 3600, min(seconds), max(seconds)
    return [split, str(len(utterances)), str(speakers), f"{hours:.3f}", f"{shortest:.2f}", f"{longest:.2f}"]


def existing_corpus(corpus: str | Path, what: str, folder_only: bool = True) -> Path:
    """Return the corpus' path, or raise :class:`UserError` naming it and what should be there."""
    path = Path(corpus).expanduser()
    if not path.exists():
        raise UserError(f"corpus {path} does not exist; --corpus takes {what}")
    if folder_only and not path.is_dir():
        raise UserError(f"corpus {path} is a file; --corpus takes {what}")
    return path


def duration_of(path: Path, name: str, left_out: list[LeftOut]) -> float | None:
    """Return a recording's length in seconds, or put it, damaged or empty, into ``left_out`` and return None."""
    try:
        info = wav_info(path)
        if info.num_samples == 0:
            raise UserError(f"{path}: the recording is empty (0 samples)")
    except UserError as error:
        left_out.append(LeftOut(name, str(error), damaged=True))
        return None
    return info.num_samples / info.sample_rate


def divide(
    utterances: Iterable[Utterance],
    test: str,
    fraction: float,
    seed: int,
    sentence: Callable[[Utterance], str] = lambda utterance: utterance.utterance_id,
) -> dict[str, list[Utterance]]:
    """Return train, dev and test.

    dev is of speakers who are in train: a decoder with speaker embeddings cannot be validated on others.

    Args:
        utterances: with unique ids.
        test: one of :data:`TESTS`: ``utterances``, about ``fraction`` of each training speaker's, as dev;
            ``speakers``, all that a ``fraction`` of the speakers say, who are in neither train nor dev.
        fraction: see ``test``.
        seed: another seed, another division.
        sentence: a key that recordings of one sentence share, where several speakers read the same ones: a sentence
            is then in one split only (but those of speakers kept for test may be trained on in other voices).

    Raises:
        UserError: an unknown ``test``, ``fraction`` outside 0 to 0.4, no speaker to keep for test.
    """
    check_test(test, TESTS)
    utterances = list(utterances)
    if test == "speakers":
        tested = split_by_speaker((utterance.speaker for utterance in utterances), fraction, seed)
        rest = [utterance for utterance in utterances if utterance.speaker not in tested]
        return divide_rest(rest, [u for u in utterances if u.speaker in tested], fraction, seed, sentence)
    items = (Item(utterance.utterance_id, utterance.speaker, sentence(utterance)) for utterance in utterances)
    split_of = split_by_sentence(items, fraction, seed)
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for utterance in utterances:
        splits[split_of[utterance.utterance_id]].append(utterance)
    return splits


def divide_rest(
    rest: Iterable[Utterance],
    tested: list[Utterance],
    fraction: float,
    seed: int,
    sentence: Callable[[Utterance], str] = lambda utterance: utterance.utterance_id,
) -> dict[str, list[Utterance]]:
    """Return train, dev and test where test is given: dev is taken out of ``rest``, see :func:`divide`."""
    splits = divide(rest, "utterances", fraction, seed, sentence)
    # what would have been the test of these speakers is trained on
    return {"train": splits["train"] + splits["test"], "dev": splits["dev"], "test": tested}


def check_test(test: str, legal: Iterable[str]) -> None:
    """Raise :class:`UserError` when ``test`` is no kind of test set that the corpus has."""
    if test not in legal:
        raise UserError(f"unknown kind of test set {test!r}; legal are {', '.join(legal)} (--test)")


def entries_of(path: Path) -> str:
    """Return the first names in a folder, for a message that says what was found instead."""
    return ", ".join(sorted(child.name for child in path.iterdir())[:6]) or "nothing"


def refuse_damage(left_out: list[LeftOut], max_bad: int) -> None:
    """Raise :class:`UserError` with the first reasons when more than ``max_bad`` recordings are damaged."""
    if max_bad < 0:
        raise UserError(f"max_bad {max_bad}; legal is 0 or more (--max-bad)")
    damaged = [item for item in left_out if item.damaged]
    if len(damaged) > max_bad:
        reasons = "\n".join(f"  {item.reason}" for item in damaged[:10])
        more = f"\n  ... and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise UserError(
            f"recordings that cannot be used: {len(damaged)}, at most {max_bad} may be (--max-bad):\n{reasons}{more}"
            f"\nRepair or remove them, or pass --max-bad {len(damaged)} to go on without them"
        )


def write_splits(
    utterances: Mapping[str, list[Utterance]], left_out: list[LeftOut], output: str | Path, division: Division
) -> Preparation:
    """Write ``output/<split>`` for every split that has utterances, ``splits.tsv`` and ``left_out.txt``.

    A data directory of a split that has none now, from an earlier division, is cleared.

    Args:
        utterances: the splits as drawn.
        left_out: what is in none.
        output: folder for all that.
        division: how the splits were drawn; its ``split_list`` decides instead where there is one.

    Raises:
        UserError: there is nothing to train on; a split list that does not fit.
    """
    output = Path(output)
    if division.split_list is not None:
        every = [utterance for items in utterances.values() for utterance in items]
        utterances, none = divide_by_list(every, division.split_list)
        left_out = [*left_out, *(LeftOut(item.utterance_id, "left out by the split list") for item in none)]
    splits = {split: DataDir(items) for split, items in utterances.items() if items}
    if "train" not in splits:
        raise UserError("the corpus has no recording that can be trained on" + _examples(left_out))
    for split in SPLITS:
        if split in splits:
            splits[split].write(output / split)
        else:
            DataDir.clear(output / split)
    write_split_list(output / NAME, splits, division)
    write_text(output / "left_out.txt", "".join(f"{item.name}\t{item.reason}\n" for item in sorted_left(left_out)))
    return Preparation(splits, left_out)


def sorted_left(left_out: list[LeftOut]) -> list[LeftOut]:
    """Return what was left out in the order of the names."""
    return sorted(left_out, key=lambda item: item.name)


def _examples(left_out: list[LeftOut]) -> str:
    examples = "; ".join(f"{item.name}: {item.reason}" for item in sorted_left(left_out)[:3])
    return f" ({len(left_out)} left out: {examples})" if examples else ""
