"""What the corpora of speech share: the report, dividing, and writing the splits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sqvae_speech.audio.wav import wav_info
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.preparation import BasePreparation, LeftOut, examples, write_left_out
from sqvae_speech.data.split_list import NAME, Division, divide_by_list, write_split_list
from sqvae_speech.data.splits import SPLITS, Item, split_by_sentence, split_by_speaker
from sqvae_speech.errors import UserError, nearest

TESTS = ("utterances", "speakers")
HEADINGS = ("split", "utterances", "speakers", "hours", "shortest s", "longest s")


class Preparation(BasePreparation[DataDir]):
    """What a corpus gave: its splits, and everything it left out with the reason."""

    noun = "recording"
    headings = HEADINGS

    def rows(self) -> list[list[str]]:
        rows = [_row(split, data) for split, data in self.splits.items()]
        if len(rows) > 1:
            rows.append(_row("all", [utterance for data in self.splits.values() for utterance in data]))
        return rows


def _row(split: str, utterances: Iterable[Utterance]) -> list[str]:
    utterances = list(utterances)
    speakers = len({utterance.speaker for utterance in utterances})
    seconds = [utterance.duration for utterance in utterances if utterance.duration is not None]
    if len(seconds) < len(utterances):
        return [split, str(len(utterances)), str(speakers), "unknown", "", ""]
    hours, shortest, longest = sum(seconds) / 3600, min(seconds), max(seconds)
    return [split, str(len(utterances)), str(speakers), f"{hours:.3f}", f"{shortest:.2f}", f"{longest:.2f}"]


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


def divide_by_voices(
    utterances: Iterable[Utterance],
    speakers: Sequence[str],
    fraction: float,
    seed: int,
    sentence: Callable[[Utterance], str] = lambda utterance: utterance.utterance_id,
) -> dict[str, list[Utterance]]:
    """Return train, dev and test, where test is all that these speakers say; see :func:`divide` with ``speakers``.

    Raises:
        UserError: a speaker that there is not, no other speaker to train on.
    """
    utterances = list(utterances)
    check_speakers(speakers, {utterance.speaker for utterance in utterances})
    rest = [utterance for utterance in utterances if utterance.speaker not in speakers]
    return divide_rest(rest, [u for u in utterances if u.speaker in speakers], fraction, seed, sentence)


def check_speakers(chosen: Sequence[str], known: Iterable[str]) -> None:
    """Raise :class:`UserError` unless the chosen speakers are some, and not all, of those there are."""
    known = sorted(set(known))
    for speaker in chosen:
        if speaker not in known:
            raise UserError(
                f"no speaker {speaker!r}{nearest(speaker, known)}; there are {', '.join(known)} (--test-speakers)"
            )
    if set(chosen) == set(known):
        raise UserError(f"--test-speakers {' '.join(chosen)} are all that there are; leave some to train on")


def check_test(test: str, legal: Iterable[str]) -> None:
    """Raise :class:`UserError` when ``test`` is no kind of test set that the corpus has."""
    if test not in legal:
        raise UserError(f"unknown kind of test set {test!r}; legal are {', '.join(legal)} (--test)")


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
        raise UserError("the corpus has no recording that can be trained on" + examples(left_out))
    for split in SPLITS:
        if split in splits:
            splits[split].write(output / split)
        else:
            DataDir.clear(output / split)
    write_split_list(output / NAME, splits, division)
    write_left_out(output, left_out)
    return Preparation(splits, left_out)
