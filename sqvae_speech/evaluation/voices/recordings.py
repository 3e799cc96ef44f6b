"""What voices are scored on: a folder of conversions, and real recordings with their speakers, texts and words."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.audio.wav import read_wav
from sqvae_speech.data.files import read_text
from sqvae_speech.data.kaldi import DataDir, Interval, Utterance, clip_intervals
from sqvae_speech.data.recordings import read_utterance
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.frames import SILENCES, normalized_word, spell


@dataclass(frozen=True, eq=False)
class Recording:
    """Something to listen to.

    Attributes:
        utterance_id: what is said, by its id in the data directory.
        speaker: whose voice it is, or is to be.
        wav: (samples,) float32.
        sample_rate: Hz.
        words: intervals of the words in it, labels normalised; none where they are not known.
        text: what is said, words normalised, where known.
    """

    utterance_id: str
    speaker: str
    wav: NDArray[np.float32]
    sample_rate: int
    words: tuple[Interval, ...] = ()
    text: str | None = None

    def cut(self, interval: Interval) -> NDArray[np.float32]:
        """The samples of an interval."""
        first, last = (round(time * self.sample_rate) for time in (interval.onset, interval.offset))
        return self.wav[max(0, first) : last]


@dataclass(frozen=True)
class Converted:
    """A line of the ``log.jsonl`` that ``sqvae-speech convert`` writes.

    Attributes:
        utterance_id, source_speaker, target_speaker: ids.
        path: of the wav.
        start: seconds into the source at which it begins.
    """

    utterance_id: str
    source_speaker: str
    target_speaker: str
    path: Path
    start: float

    @property
    def is_resynthesis(self) -> bool:
        """Whether it was decoded in the voice that it already had."""
        return self.source_speaker == self.target_speaker


def read_log(folder: str | os.PathLike) -> list[Converted]:
    """The conversions of a folder, by its ``log.jsonl``; those without a wav, which are faulty, are left out.

    Raises:
        UserError: no such file, none of ``convert``, no wav in it, or a source whose speaker is not known.
    """
    path = Path(folder) / "log.jsonl"
    if not path.is_file():
        raise UserError(f"{folder} has no log.jsonl; give a folder that `sqvae-speech convert` wrote")
    lines: list[Converted] = []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        try:
            line: dict[str, Any] = json.loads(text)
            wav, source = line["wav"], line["source_speaker"]
            one = Converted(
                line["utterance_id"], source, line["target_speaker"], Path(folder) / (wav or ""), float(line["start"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number} is no line of `sqvae-speech convert` ({error!r}); convert again"
            ) from None
        if source is None:
            raise UserError(f"{path}:{number}: the speaker of {one.utterance_id!r} is not known; convert from shards")
        if wav is not None:
            lines.append(one)
    if not lines:
        raise UserError(f"{path} lists no wav; convert something first")
    return lines


class Corpus:
    """Real recordings of data directories, read when they are needed.

    Args:
        folders: data directories; an utterance id comes once.
        allow_pipes: run commands in ``wav.scp``.
        channel: of recordings with several, see :func:`sqvae_speech.data.recordings.read_utterance`.

    Raises:
        UserError: a folder that is none, an id that comes twice.
    """

    def __init__(self, folders: Sequence[str | os.PathLike], allow_pipes: bool = False, channel: str | None = None):
        self.folders = tuple(map(Path, folders))
        self._channel = channel
        self._utterances: dict[str, Utterance] = {}
        for folder in self.folders:
            for utterance in DataDir.read(folder, allow_pipes=allow_pipes):
                if utterance.utterance_id in self._utterances:
                    raise UserError(f"utterance {utterance.utterance_id!r} of {folder} comes twice; give a set once")
                self._utterances[utterance.utterance_id] = utterance
        self._by_text = {
            (utterance.speaker, text): name
            for name, utterance in self._utterances.items()
            if (text := _text_of(utterance)) is not None
        }

    @property
    def ids(self) -> frozenset[str]:
        """Of all utterances."""
        return frozenset(self._utterances)

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._utterances

    def __getitem__(self, utterance_id: str) -> Recording:
        """Read a recording.

        Raises:
            UserError: there is none of this id, or it cannot be read.
        """
        if utterance_id not in self._utterances:
            where = ", ".join(map(str, self.folders))
            raise UserError(f"utterance {utterance_id!r} is not in {where}; give the data directory it came from")
        utterance = self._utterances[utterance_id]
        wav, sample_rate = read_utterance(utterance, self._channel)
        return Recording(utterance_id, utterance.speaker, wav, sample_rate, words_of(utterance), _text_of(utterance))

    def same_text(self, utterance_id: str, speaker: str) -> str | None:
        """The id of the recording in which a speaker says what is said in another; None where there is none."""
        text = _text_of(self._utterances[utterance_id]) if utterance_id in self._utterances else None
        return None if text is None else self._by_text.get((speaker, text))

    def sample(self, per_speaker: int, seed: int) -> Iterator[Recording]:
        """Read at most so many recordings of each speaker, drawn by ``seed``, in the order of their ids."""
        speakers: dict[str, list[str]] = {}
        for name, utterance in self._utterances.items():
            speakers.setdefault(utterance.speaker, []).append(name)
        rng = np.random.default_rng(seed)
        chosen: list[str] = []
        for speaker in sorted(speakers):
            names = sorted(speakers[speaker])
            chosen += rng.permutation(names)[:per_speaker].tolist()
        for name in sorted(chosen):
            yield self[name]


def recording_of(converted: Converted, corpus: Corpus) -> Recording:
    """Read a conversion, with the words and the text of its source, at the times they now have.

    Raises:
        UserError: the wav cannot be read.
    """
    wav, sample_rate = read_wav(converted.path)
    source = corpus[converted.utterance_id]
    words = clip_intervals(source.words, converted.start, converted.start + len(wav) / sample_rate)
    return Recording(converted.utterance_id, converted.target_speaker, wav, sample_rate, tuple(words), source.text)


def words_of(utterance: Utterance) -> tuple[Interval, ...]:
    """Words with their times: those of an ``ali`` that spells the text; a text of one word is the whole recording."""
    if spell(utterance.ali, utterance.text):
        return tuple(
            Interval(one.onset, one.offset, normalized_word(one.label))
            for one in utterance.ali
            if one.label not in SILENCES
        )
    words = (utterance.text or "").split()
    if len(words) == 1 and utterance.duration is not None:
        return (Interval(0.0, utterance.duration, normalized_word(words[0])),)
    return ()


def _text_of(utterance: Utterance) -> str | None:
    return " ".join(filter(None, map(normalized_word, (utterance.text or "").split()))) or None
