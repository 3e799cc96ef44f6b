"""Kaldi data directories: ``wav.scp``, ``utt2spk``, ``spk2utt``, ``utt2dur``, ``text``, and ``segments`` and ``ali``.

One line an entry, columns separated by white space, sorted by the bytes of the first column (``LC_ALL=C sort``):

=========  ==================================================  ========
wav.scp    recording, path (or a command ending in ``|``)      required
utt2spk    utterance, speaker                                  required
spk2utt    speaker, utterances                                 required
utt2dur    utterance, seconds                                  optional
text       utterance, words                                    optional
segments   utterance, recording, start s, end s                optional
ali        utterance, onset s, offset s, label                 optional
=========  ==================================================  ========

Without ``segments`` an utterance is a whole recording and has its id. ``ali`` holds the intervals of phones or words,
several lines an utterance, relative to the utterance's start. Relative paths are relative to the working directory,
as in Kaldi. Reading checks what Kaldi's ``validate_data_dir.sh`` checks (https://kaldi-asr.org/doc/data_prep.html).
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqvae_speech.data.files import write_text
from sqvae_speech.data.ids import check_id
from sqvae_speech.data.listings import read_lines, require_same_ids
from sqvae_speech.errors import UserError

FILES = ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "text", "segments", "ali")
TOLERANCE = 0.02  # s by which an interval may pass its utterance's end: aligners round to frames of 10 or 12.5 ms


class Interval(NamedTuple):
    """A labelled stretch of an utterance, in seconds from the utterance's start."""

    onset: float
    offset: float
    label: str


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a data directory.

    Attributes:
        utterance_id: its id, legal by :func:`sqvae_speech.data.ids.check_id`.
        speaker: its speaker's id.
        wav: path of the recording, or a command that writes it to standard output, ending in ``|``.
        start, end: the part of the recording in seconds; ``end`` None for "to its end".
        duration: seconds, or None where the directory has no ``utt2dur``.
        text: transcript, or None where the directory has no ``text``.
        recording: id of the recording, where it is not the utterance's own.
        ali: intervals in order of time, empty when there are none.
    """

    utterance_id: str
    speaker: str
    wav: str
    start: float = 0.0
    end: float | None = None
    duration: float | None = None
    text: str | None = None
    recording: str | None = None
    ali: tuple[Interval, ...] = ()

    @property
    def is_pipe(self) -> bool:
        """Whether ``wav`` is a command, not a path."""
        return self.wav.rstrip().endswith("|")


def clip_intervals(intervals: Iterable[Interval], onset: float, offset: float) -> list[Interval]:
    """Return what of the intervals lies in a part of the utterance, with times from the part's beginning."""
    cut = (
        Interval(max(interval.onset, onset) - onset, min(interval.offset, offset) - onset, interval.label)
        for interval in intervals
    )
    return [Interval(round(start, 6), round(end, 6), label) for start, end, label in cut if end - start > 1e-6]


def _require_speaker_order(name: str, previous: str, speaker: str, where: str = "") -> None:
    if speaker < previous:  # Kaldi's tools merge utt2spk and spk2utt in one pass, so both orders must agree
        raise UserError(
            f"{where}speaker {speaker!r} of {name!r} comes after speaker {previous!r}: utterances are not in the "
            "order of their speakers. Make the speaker the beginning of each utterance id, as in 'p225-001'"
        )


class DataDir:
    """The utterances of one split, in order of their ids, as a Kaldi data directory holds them.

    Args:
        utterances: in any order; ids must be legal and unique. Texts and durations must be there for all
            utterances or for none.

    Raises:
        UserError: an illegal or duplicate id, or a rule of the format that the utterances break.
    """

    def __init__(self, utterances: Iterable[Utterance]):
        self.utterances = tuple(sorted(utterances, key=lambda utterance: utterance.utterance_id))
        previous, speaker = "", ""
        for utterance in self.utterances:
            check_id(utterance.utterance_id)
            check_id(utterance.speaker, kind="speaker")
            if utterance.utterance_id == previous:
                raise UserError(f"duplicate utterance id {previous!r}; ids must be unique")
            _require_speaker_order(utterance.utterance_id, speaker, utterance.speaker)
            previous, speaker = utterance.utterance_id, utterance.speaker
        for field in ("text", "duration"):
            without = [u.utterance_id for u in self.utterances if getattr(u, field) is None]
            if without and len(without) < len(self.utterances):
                raise UserError(f"{without[0]!r} has no {field}, others have; give it to all utterances or to none")

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers' ids, sorted."""
        return tuple(sorted({utterance.speaker for utterance in self.utterances}))

    @property
    def duration(self) -> float | None:
        """Seconds of speech in all, None when unknown."""
        durations = [utterance.duration for utterance in self.utterances]
        return None if None in durations else math.fsum(d for d in durations if d is not None)

    def write(self, folder: str | Path) -> None:
        """Write the directory's files, each whole or not at all; optional files of an earlier content are removed."""
        folder = Path(folder)
        if not self.utterances:
            raise UserError(f"no utterances to write to {folder}")
        recordings: dict[str, str] = {}
        speakers: dict[str, list[str]] = {speaker: [] for speaker in self.speakers}
        for utterance in self.utterances:
            recording = utterance.recording or utterance.utterance_id
            if recordings.setdefault(recording, utterance.wav) != utterance.wav:
                raise UserError(f"recording {recording!r} is both {recordings[recording]!r} and {utterance.wav!r}")
            if "\n" in utterance.wav or "\n" in (utterance.text or ""):
                raise UserError(f"line break in the path or text of {utterance.utterance_id!r}; remove it")
            speakers[utterance.speaker].append(utterance.utterance_id)
        whole = all(u.recording is None and u.start == 0 and u.end is None for u in self.utterances)
        tables: dict[str, list[str] | None] = {
            "wav.scp": [f"{name} {wav}" for name, wav in sorted(recordings.items())],
            "segments": None
            if whole
            else [
                f"{u.utterance_id} {u.recording or u.utterance_id} {u.start:.6f} "
                + ("-1" if u.end is None else f"{u.end:.6f}")  # Kaldi's "to the end of the recording"
                for u in self
            ],
            "utt2spk": [f"{u.utterance_id} {u.speaker}" for u in self],
            "spk2utt": [f"{speaker} {' '.join(names)}" for speaker, names in speakers.items()],
            "utt2dur": None if self.duration is None else [f"{u.utterance_id} {u.duration:.6f}" for u in self],
            "text": None
            if self.utterances[0].text is None
            else [f"{u.utterance_id} {' '.join((u.text or '').split())}".rstrip() for u in self],
            "ali": [
                f"{u.utterance_id} {interval.onset:.6f} {interval.offset:.6f} {interval.label}"
                for u in self
                for interval in u.ali
            ]
            or None,
        }
        for name, lines in tables.items():
            if lines is None:
                (folder / name).unlink(missing_ok=True)
            else:
                write_text(folder / name, "".join(line + "\n" for line in lines))

    @staticmethod
    def clear(folder: str | Path) -> None:
        """Remove a directory's files, and the folder if nothing else is in it."""
        folder = Path(folder)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or not empty
            folder.rmdir()

    @classmethod
    def read(cls, folder: str | Path, allow_pipes: bool = False) -> "DataDir":
        """Read and validate a data directory.

        Args:
            folder: the directory.
            allow_pipes: accept commands in ``wav.scp``. They run as they stand: only for files you trust.

        Raises:
            UserError: what Kaldi's validation would refuse, with the file, the line and the remedy.
        """
        folder = Path(folder)
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise UserError(f"data directory {folder} {what}; `sqvae-speech prepare` makes data directories")
        for name in ("wav.scp", "utt2spk", "spk2utt"):
            if not (folder / name).is_file():
                raise UserError(f"{folder} is not a Kaldi data directory: it has no {name}")
        speakers = _read_speakers(folder)
        recordings = _read_recordings(folder / "wav.scp", allow_pipes)
        segments = _read_segments(folder / "segments", recordings) if (folder / "segments").exists() else None
        if segments is None:
            require_same_ids(folder / "wav.scp", recordings, speakers, "utt2spk")
        else:
            require_same_ids(folder / "segments", segments, speakers, "utt2spk")
        durations: dict[str, float] = {}
        if (folder / "utt2dur").exists():
            for line in read_lines(folder / "utt2dur", "utterance id"):
                durations[line.key] = line.seconds(line.columns("<seconds>")[0], "duration")
            require_same_ids(folder / "utt2dur", durations, speakers, "utt2spk")
        texts: dict[str, str] = {}
        if (folder / "text").exists():
            texts = {line.key: line.rest for line in read_lines(folder / "text", "utterance id")}
            require_same_ids(folder / "text", texts, speakers, "utt2spk")
        ali = _read_ali(folder / "ali", speakers, durations) if (folder / "ali").exists() else {}
        utterances = []
        for name, speaker in speakers.items():
            recording, start, end = segments[name] if segments is not None else (name, 0.0, None)
            utterances.append(
                Utterance(
                    utterance_id=name,
                    speaker=speaker,
                    wav=recordings[recording],
                    start=start,
                    end=end,
                    duration=durations.get(name),
                    text=texts.get(name),
                    recording=None if segments is None else recording,
                    ali=tuple(ali.get(name, ())),
                )
            )
        return cls(utterances)


def _read_speakers(folder: Path) -> dict[str, str]:
    speakers: dict[str, str] = {}
    previous = ""
    for line in read_lines(folder / "utt2spk", "utterance id"):
        (speaker,) = line.columns("<speaker>")
        check_id(speaker, line.where, "speaker")
        _require_speaker_order(line.key, previous, speaker, f"{line.where}: ")
        speakers[line.key] = previous = speaker
    listed: dict[str, str] = {}
    for line in read_lines(folder / "spk2utt", "speaker"):
        for name in line.rest.split():
            if speakers.get(name) != line.key:
                raise UserError(
                    f"{line.where}: {name!r} is of speaker {line.key!r} here, in utt2spk of {speakers.get(name)!r}"
                )
            if name in listed:
                raise UserError(f"{line.where}: duplicate utterance id {name!r}")
            listed[name] = line.key
    require_same_ids(folder / "spk2utt", listed, speakers, "utt2spk")
    return speakers


def _read_recordings(path: Path, allow_pipes: bool) -> dict[str, str]:
    recordings: dict[str, str] = {}
    for line in read_lines(path, "recording id"):
        if not line.rest:
            raise UserError(f"{line.where}: recording {line.key!r} has no path")
        if line.rest.endswith("|") and not allow_pipes:
            raise UserError(
                f"{line.where}: {line.rest!r} is a command, and a command may do anything. If you trust this file, "
                "pass --allow-pipes; otherwise write the recordings to files and list their paths"
            )
        recordings[line.key] = line.rest
    return recordings


def _read_segments(path: Path, recordings: dict[str, str]) -> dict[str, tuple[str, float, float | None]]:
    segments: dict[str, tuple[str, float, float | None]] = {}
    for line in read_lines(path, "utterance id"):
        recording, start, end = line.columns("<recording> <start> <end>")
        if recording not in recordings:
            raise UserError(f"{line.where}: recording {recording!r} is not in wav.scp")
        onset = line.seconds(start, "start")
        offset = None if end in ("-1", "-1.0") else line.seconds(end, "end")
        if offset is not None and offset <= onset:
            raise UserError(f"{line.where}: segment {line.key!r} ends at {end} s, before it starts ({start} s)")
        segments[line.key] = (recording, onset, offset)
    return segments


def _read_ali(path: Path, speakers: dict[str, str], durations: dict[str, float]) -> dict[str, list[Interval]]:
    ali: dict[str, list[Interval]] = {}
    for line in read_lines(path, "utterance id", repeated=True):
        onset, offset, label = line.columns("<onset> <offset> <label>")
        if line.key not in speakers:
            raise UserError(f"{line.where}: utterance {line.key!r} is not in utt2spk")
        interval = Interval(line.seconds(onset, "onset"), line.seconds(offset, "offset"), label)
        if interval.offset <= interval.onset:
            raise UserError(f"{line.where}: {label!r} of {line.key!r} ends at {offset} s, but starts at {onset} s")
        intervals = ali.setdefault(line.key, [])
        if intervals and interval.onset < intervals[-1].onset:
            raise UserError(
                f"{line.where}: {label!r} of {line.key!r} starts before the interval above it; sort by time"
            )
        if interval.offset > durations.get(line.key, math.inf) + TOLERANCE:
            raise UserError(
                f"{line.where}: {label!r} ends at {offset} s, {line.key!r} lasts {durations[line.key]} s (utt2dur)"
            )
        intervals.append(interval)
    return ali
