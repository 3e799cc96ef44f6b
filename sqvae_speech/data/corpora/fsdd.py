"""Free Spoken Digit Dataset: 6 speakers, 3,000 recordings of single digits at 8 kHz.

https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0. Files are named
``{digit}_{speaker}_{index}.wav`` with index 0 to 49; index 0 to 4 is the corpus' own test split.
"""

import contextlib
import io
import random
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sqvae_speech.audio.wav import read_wav, write_wav
from sqvae_speech.data.corpora.common import Division, Preparation, check_speakers, write_splits
from sqvae_speech.data.ids import check_id
from sqvae_speech.data.kaldi import Interval, Utterance
from sqvae_speech.data.preparation import LeftOut, existing_corpus, refuse_damage
from sqvae_speech.errors import UserError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^_/]+)_(?P<index>[0-9]+)\.wav")
WHAT = "the Free Spoken Digit Dataset: its zip, or the folder that has `recordings/` in it"
SPLIT_INDICES = {"test": range(5), "dev": range(5, 10)}  # the rest is train
SECONDS = 3.5  # an utterance's length aimed at: 3 to 4 s


@dataclass(frozen=True)
class _Digit:
    name: str
    digit: int
    wav: np.ndarray


def prepare_fsdd(
    corpus: str | Path,
    output: str | Path,
    *,
    test_speakers: Sequence[str] = (),
    seed: int = 0,
    max_bad: int = 0,
    channel: str | None = None,
    progress: bool = True,
) -> Preparation:
    """Write ``output/{train,dev,test}`` from the Free Spoken Digit Dataset, and the joined recordings they name.

    Most recordings are shorter than half a second, so the digits of one speaker and split are joined, in an order
    drawn from ``seed``, into utterances of 3 to 4 s: ``output/wavs/<speaker>-<split>-<number>.wav``, 16-bit PCM at
    the corpus' rate, without gaps. They are spread so that a speaker's utterances last about the same. ``text`` has
    the words, ``ali`` their intervals.

    Splits: test is index 0 to 4, dev index 5 to 9, train the others (10 to 49), so each has all speakers and digits.
    With ``test_speakers`` test is all that these say, and what would have been the test of the others is in dev.

    Args:
        corpus: the zip, or the unpacked folder, at whatever depth ``recordings`` lies.
        output: folder for the data directories.
        test_speakers: who are in neither train nor dev.
        seed: of the order in which digits are joined.
        max_bad: recordings that may be unreadable, empty, silent, of several channels or of another rate.
        channel: of recordings with several channels: ``"mix"`` or a number from 0; None refuses them.
        progress: show a progress bar.

    Raises:
        UserError: no such corpus, none of its recordings found, no such speaker, more than ``max_bad`` damaged.
    """
    path = existing_corpus(corpus, WHAT, folder_only=False)
    output = Path(output)
    left_out: list[LeftOut] = []
    groups: dict[tuple[str, str], list[_Digit]] = defaultdict(list)
    rates: dict[int, int] = defaultdict(int)
    readings = []
    with _recordings(path) as (names, read):
        for name in tqdm(names, desc="reading fsdd", unit="recording", disable=not progress):
            match = NAME.fullmatch(name.rsplit("/", 1)[-1])
            if not match:
                left_out.append(LeftOut(name, "file name is not {digit}_{speaker}_{index}.wav"))
                continue
            try:
                check_id(match["speaker"], kind="speaker")
                wav, rate = read(name, channel)
                if not np.abs(wav).max() > 0:
                    raise UserError(f"{name}: silent, all {len(wav)} samples are 0; leave it out")
            except UserError as error:
                left_out.append(LeftOut(name, str(error), damaged=True))
                continue
            rates[rate] += 1
            readings.append((name, match, wav, rate))
    if not readings and not any(item.damaged for item in left_out):
        raise UserError(f"{path} holds no recording named {{digit}}_{{speaker}}_{{index}}.wav; --corpus takes {WHAT}")
    common = max(rates, key=lambda rate: rates[rate], default=0)
    for name, match, wav, rate in readings:
        if rate != common:
            reason = f"{name}: {rate} Hz, the other recordings have {common} Hz; resample it"
            left_out.append(LeftOut(name, reason, damaged=True))
            continue
        groups[match["speaker"], _split(match, test_speakers)].append(_Digit(name, int(match["digit"]), wav))
    refuse_damage(left_out, max_bad)
    if test_speakers:
        check_speakers(test_speakers, (speaker for speaker, _ in groups))
    utterances: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for (speaker, split), digits in sorted(groups.items()):
        for number, group in enumerate(_spread(digits, common, random.Random(f"{seed}:{split}:{speaker}"))):
            name = f"{speaker}-{split}-{number:03d}"
            utterances[split].append(_join(name, speaker, group, common, output / "wavs" / f"{name}.wav"))
    # which recordings are in which split is the corpus' own; the seed decides how they are joined
    method = f"test speakers {' '.join(test_speakers)}" if test_speakers else "as in the corpus"
    return write_splits(utterances, left_out, output, Division(method, seed=seed))


def _split(match: re.Match, test_speakers: Sequence[str]) -> str:
    split = next((s for s, indices in SPLIT_INDICES.items() if int(match["index"]) in indices), "train")
    if not test_speakers:
        return split
    if match["speaker"] in test_speakers:
        return "test"
    return "dev" if split == "test" else split


def _spread(digits: list[_Digit], sample_rate: int, rng: random.Random) -> list[list[_Digit]]:
    """Divide recordings into utterances of about equal length: longest first, each to the shortest so far."""
    digits = sorted(digits, key=lambda digit: digit.name)
    rng.shuffle(digits)  # so that equal lengths do not go in the order of their names
    total = sum(len(digit.wav) for digit in digits)
    groups: list[list[_Digit]] = [[] for _ in range(max(1, round(total / (SECONDS * sample_rate))))]
    lengths = [0] * len(groups)
    for digit in sorted(digits, key=lambda digit: -len(digit.wav)):
        shortest = lengths.index(min(lengths))
        groups[shortest].append(digit)
        lengths[shortest] += len(digit.wav)
    for group in groups:
        rng.shuffle(group)
    return groups


def _join(name: str, speaker: str, group: list[_Digit], sample_rate: int, path: Path) -> Utterance:
    intervals, end = [], 0
    for digit in group:
        start, end = end, end + len(digit.wav)
        intervals.append(Interval(start / sample_rate, end / sample_rate, WORDS[digit.digit]))
    write_wav(path, np.concatenate([digit.wav for digit in group]), sample_rate)
    return Utterance(
        utterance_id=name,
        speaker=speaker,
        wav=str(path.resolve()),
        duration=end / sample_rate,
        text=" ".join(interval.label for interval in intervals),
        ali=tuple(intervals),
    )


class _Member(io.BytesIO):
    """A file of a zip; readers take its name for their messages."""

    name: str


Reader = Callable[[str, str | None], tuple[np.ndarray, int]]


@contextlib.contextmanager
def _recordings(path: Path) -> Iterator[tuple[list[str], Reader]]:
    """Give the sorted names of the corpus' wav files and a function that reads one, from a folder or a zip."""
    if path.is_dir():
        names = sorted(str(file.relative_to(path)) for file in path.rglob("*.wav"))
        yield names, lambda name, channel: read_wav(path / name, channel=channel)
        return
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UserError(f"corpus {path} is not a readable zip ({error}); --corpus takes {WHAT}") from None

    def read(name: str, channel: str | None) -> tuple[np.ndarray, int]:
        try:
            data = _Member(archive.read(name))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{name}: cannot be read from {path} ({error}); get the zip again") from None
        if not data.getbuffer().nbytes:
            raise UserError(f"{name}: the file is empty (0 bytes); leave it out")
        data.name = name  # what read_wav calls it in its messages
        return read_wav(data, channel=channel)

    with archive:
        yield sorted(name for name in archive.namelist() if name.endswith(".wav")), read
