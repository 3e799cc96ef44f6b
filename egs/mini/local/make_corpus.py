"""Make the mini corpus: ten synthetic English voices, phone-aligned, in the layout of VCTK 0.92.

espeak-ng, through the PyPI package ``espeakng-loader``, speaks the sentences of ``sentences.txt`` and reports the
sample at which each phone begins. Nothing is downloaded, and the same package gives the same bytes on every run.

Written to the output folder, at 22,050 Hz, mono, 16 bit::

    wav48_silence_trimmed/p301/p301_001_mic1.flac    txt/p301/p301_001.txt    speaker-info.txt
    ali            lines "utterance_id onset offset phone" (seconds, IPA without stress, SIL), sorted, without gaps
    corpus.json    the marker of a finished corpus: version, counts, a checksum of the samples and the alignment

The number in an utterance id is the sentence's: the first ones are spoken by every voice, each of the others by one.
"""

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

from sqvae_speech.bin._cli import ArgumentParser, run
from sqvae_speech.errors import UserError

FORMAT = 1  # raise it when the code below changes what is written
SAMPLE_RATE = 22050
PADDING = 0.15  # seconds of silence before and after each sentence
SILENCE = "SIL"
SILENT = 4  # of 32768: espeak's closures and pauses are exact zeros but for the last step of a decay
SENTENCES = Path(__file__).with_name("sentences.txt")
MARKER = "corpus.json"


@dataclass(frozen=True)
class Voice:
    """A speaker: espeak's accent and timbre (``voices/!v``), its pitch (0 to 99) and rate (words a minute)."""

    speaker: str
    gender: str
    accent: str
    language: str
    variant: str
    pitch: int = 50
    rate: int = 165


# Timbres without espeak's echo, which would smear one phone over the next.
VOICES = (
    Voice("p301", "F", "American", "gmw/en-US", "f1", pitch=55),
    Voice("p302", "M", "American", "gmw/en-US", "m3"),
    Voice("p303", "F", "English", "gmw/en", "linda"),
    Voice("p304", "M", "English", "gmw/en", "paul", pitch=40, rate=155),
    Voice("p305", "F", "Scottish", "gmw/en-GB-scotland", "steph"),
    Voice("p306", "M", "Scottish", "gmw/en-GB-scotland", "m1", pitch=75, rate=175),
    Voice("p307", "F", "Caribbean", "gmw/en-029", "Annie"),
    Voice("p308", "M", "Lancastrian", "gmw/en-GB-x-gbclan", "m7", rate=160),
    Voice("p309", "F", "RP", "gmw/en-GB-x-rp", "aunty", pitch=35, rate=160),
    Voice("p310", "M", "WestMidlands", "gmw/en-GB-x-gbcwmd", "klatt4", pitch=60, rate=170),
)

Phone = tuple[int, str]  # first sample, name


# ---- espeak-ng through ctypes: speak_lib.h's espeak_EVENT, and the constants of its enums that are used here


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_void_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds: too coarse
        ("sample", ctypes.c_int),  # the same instant in samples
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_SYNCHRONOUS, _PHONEMES_AS_IPA, _DO_NOT_EXIT, _UTF8 = 2, 0x0003, 0x8000, 1
_LIST_TERMINATED, _PHONEME = 0, 7
_RATE, _PITCH = 1, 3


class Espeak:
    """One espeak-ng engine; its state lasts for the process, so each voice is spoken in a process of its own."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                "the mini corpus is spoken by espeak-ng, and the package espeakng-loader is not installed; "
                "install it with: pip install espeakng-loader"
            ) from None
        path, data = espeakng_loader.get_library_path(), str(espeakng_loader.get_data_path())
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise UserError(
                f"cannot load espeak-ng from {path} ({error}); "
                "install it again with: pip install --force-reinstall espeakng-loader"
            ) from None
        if self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _PHONEMES_AS_IPA | _DO_NOT_EXIT) < 0:
            raise UserError(f"espeak-ng finds no voices in {data!r} (it takes at most 150 characters there)")
        self._library.espeak_Info.restype = ctypes.c_char_p
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._library.espeak_ng_SetRandSeed(1)
        self.version = self._library.espeak_Info(None).decode()
        self._chunks: list[np.ndarray] = []
        self._phones: list[Phone] = []
        self._callback = _Callback(self._receive)  # kept: ctypes does not hold it for the library
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wav, num_samples: int, events) -> int:
        if wav and num_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(wav, (num_samples,)).copy())
        for event in iter_events(events):
            if event.type == _PHONEME:
                # read from memory: the eight bytes may hold no final zero
                name = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0].decode()
                self._phones.append((event.sample, name))
        return 0

    def choose(self, voice: Voice) -> None:
        """Speak as ``voice`` from now on."""
        name = f"{voice.language}+{voice.variant}"
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise UserError(f"espeak-ng {self.version} has no voice {name!r}; pip install --upgrade espeakng-loader")
        self._library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        self._library.espeak_SetParameter(_RATE, voice.rate, 0)

    def say(self, text: str) -> tuple[np.ndarray, list[Phone]]:
        """Speak ``text``: its int16 samples (T,), and espeak's own phone events (sample, IPA with stress)."""
        self._chunks, self._phones = [], []
        data = text.encode() + b"\0"
        if self._library.espeak_Synth(data, len(data), 0, 1, 0, _UTF8, None, None) != 0 or not self._chunks:
            raise RuntimeError(f"espeak-ng did not speak {text!r}")
        return np.concatenate(self._chunks), self._phones


def iter_events(events) -> Iterator[_Event]:
    """The events of espeak's array, which ends with one of type LIST_TERMINATED."""
    position = 0
    while events[position].type != _LIST_TERMINATED:
        yield events[position]
        position += 1


# ---- from espeak's events to an alignment


def align(wav: np.ndarray, events: Sequence[Phone]) -> list[Phone]:
    """Turn phone events into an alignment of ``wav`` (T,) int16: starts at sample 0, no gaps, no empty phone.

    Events mark where the sound of a phone begins, which is not always where the phone does:

    - the closure of a stop lies before its event, as zeros, and is given back to it;
    - a pause and a glide between vowels both come without a name: a silent one is SIL, a sounding one
      belongs to the phone before it;
    - an ``l`` that espeak has drawn into the vowel before it leaves an event on the next closure: it is dropped.
    """
    loud = np.flatnonzero(np.abs(wav.astype(np.int32)) > SILENT)
    phones: list[Phone] = [(0, SILENCE)]
    for position, (sample, name) in enumerate(events):
        end = events[position + 1][0] if position + 1 < len(events) else len(wav)
        name = name.strip().lstrip("ˈˌ").replace(":", "ː")
        if not 0 <= sample <= end <= len(wav):
            raise RuntimeError(f"espeak-ng's events are out of order: {name!r} at {sample} to {end} of {len(wav)}")
        first, last = np.searchsorted(loud, (sample, end))
        sounding = last > first
        if sample == end or (not name and sounding):
            continue
        name = name or SILENCE
        if name == phones[-1][1] == SILENCE or (not sounding and name not in (SILENCE, "ʔ")):
            continue
        if sounding and phones[-1][1] != SILENCE:
            # the closure: zeros between the last sound before this event and the event itself
            closed = int(loud[first - 1]) + 1 if first else 0
            sample = max(closed, phones[-1][0] + 1) if sample - closed > 1 else sample
        phones.append((sample, name))
    return phones if len(phones) == 1 or phones[1][0] > 0 else phones[1:]


def pad(wav: np.ndarray, phones: Sequence[Phone]) -> tuple[np.ndarray, list[Phone]]:
    """Put ``PADDING`` seconds of silence around a sentence, in place of what espeak leaves there."""
    margin = round(PADDING * SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(wav.astype(np.int32)) > SILENT)
    first, last = int(loud[0]), int(loud[-1]) + 1
    silence = np.zeros(margin, np.int16)
    spoken = [(sample - first + margin, name) for sample, name in phones if sample < last]
    # what begins before the first sound begins with it
    spoken = [(max(sample, margin), name) for sample, name in spoken if name != SILENCE or sample > margin]
    return np.concatenate((silence, wav[first:last], silence)), [(0, SILENCE), *spoken, (last - first + margin, SILENCE)]


# ---- the corpus


def read_sentences(path: Path = SENTENCES) -> tuple[list[str], list[str]]:
    """The sentences under ``[shared]`` and those under ``[own]``."""
    sections: dict[str, list[str]] = {"[shared]": [], "[own]": []}
    section = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections[line.strip()]
        elif line.strip() and not line.startswith("#") and section is not None:
            section.append(line.strip())
    return sections["[shared]"], sections["[own]"]


def plan() -> dict[Voice, list[tuple[str, str]]]:
    """Who says what: each voice's (utterance id, sentence), in order."""
    shared, own = read_sentences()
    numbered = list(enumerate(shared + own, start=1))
    return {
        voice: [
            (f"{voice.speaker}_{number:03d}", sentence)
            for number, sentence in numbered[: len(shared)] + numbered[len(shared) + turn :: len(VOICES)]
        ]
        for turn, voice in enumerate(VOICES)
    }


def make_voice(root: Path, voice: Voice, utterances: Sequence[tuple[str, str]]) -> tuple[list[str], int, str]:
    """Write one voice's recordings and texts: its lines of ``ali``, its samples, a checksum of both."""
    espeak = Espeak()
    espeak.choose(voice)
    wavs, texts = root / "wav48_silence_trimmed" / voice.speaker, root / "txt" / voice.speaker
    wavs.mkdir(parents=True)
    texts.mkdir(parents=True)
    lines: list[str] = []
    num_samples, checksum = 0, hashlib.sha256()
    for utterance_id, sentence in utterances:
        wav, events = espeak.say(sentence)
        wav, phones = pad(wav, align(wav, events))
        soundfile.write(wavs / f"{utterance_id}_mic1.flac", wav, SAMPLE_RATE, subtype="PCM_16")
        (texts / f"{utterance_id}.txt").write_text(sentence + "\n", encoding="utf-8")
        ends = [sample for sample, _ in phones[1:]] + [len(wav)]
        for (onset, phone), offset in zip(phones, ends, strict=True):
            lines.append(f"{utterance_id} {onset / SAMPLE_RATE:.6f} {offset / SAMPLE_RATE:.6f} {phone}\n")
        num_samples += len(wav)
        checksum.update(wav.tobytes())
    checksum.update("".join(lines).encode())
    return lines, num_samples, checksum.hexdigest()


def corpus_version(espeak_version: str) -> str:
    """A short hash of all that decides what the corpus holds."""
    recipe = [FORMAT, SAMPLE_RATE, PADDING, espeak_version, [asdict(voice) for voice in VOICES], read_sentences()]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def finished(root: Path, version: str) -> bool:
    """Whether ``root`` holds the whole corpus of this version; UserError when it holds something else of the user's."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
        recordings = sum(1 for _ in root.glob("wav48_silence_trimmed/*/*_mic1.flac"))
        whole = (root / "ali").is_file() and recordings == marker["utterances"]
        return bool(marker["version"] == version and whole)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{root} exists and is not a mini corpus (no readable {MARKER} in it), so it is left alone; "
            "remove it or name another folder"
        ) from None


def make_corpus(output: Path, num_workers: int = 1, force: bool = False) -> dict[str, object]:
    """Make the corpus at ``output`` unless it is there already; returns the marker's contents.

    It is built beside its place and renamed when whole, so ``output`` never holds half a corpus.
    """
    version = corpus_version(Espeak().version)
    if finished(output, version) and not force:
        return json.loads((output / MARKER).read_text(encoding="utf-8")) | {"made": False}
    output.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (output.parent / f".{output.name}.{what}-{os.getpid()}" for what in ("partial", "old"))
    try:
        partial.mkdir()
        # espeak keeps state from one utterance to the next: a fresh process a voice makes it the same each time
        with ProcessPoolExecutor(num_workers, get_context("spawn"), max_tasks_per_child=1) as pool:
            jobs = [pool.submit(make_voice, partial, voice, utterances) for voice, utterances in plan().items()]
            voices = [job.result() for job in jobs]
        (partial / "ali").write_text("".join(line for lines, _, _ in voices for line in lines), encoding="utf-8")
        table = [f"{v.speaker}  -  {v.gender}  {v.accent}  espeak-ng {v.language}+{v.variant}\n" for v in VOICES]
        (partial / "speaker-info.txt").write_text("ID  AGE  GENDER  ACCENTS  REGION COMMENTS\n" + "".join(table))
        phones = [line.split()[3] for lines, _, _ in voices for line in lines]
        marker: dict[str, object] = {
            "version": version,
            "speakers": len(voices),
            "utterances": sum(map(len, plan().values())),
            "minutes": round(sum(num_samples for _, num_samples, _ in voices) / SAMPLE_RATE / 60, 2),
            "phones": sum(phone != SILENCE for phone in phones),
            "phone_set": sorted(set(phones)),
            "sha256": hashlib.sha256("".join(checksum for _, _, checksum in voices).encode()).hexdigest(),
        }
        (partial / MARKER).write_text(json.dumps(marker, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if output.exists():
            output.rename(old)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return marker | {"made": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and make the corpus."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0], formatter_class=argparse.HelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the corpus; a finished one is not made again")
    parser.add_argument("--num-workers", type=int, default=1, help="voices spoken at a time (default: 1)")
    parser.add_argument("--force", action="store_true", help="make it again even if it is finished")
    args = parser.parse_args(argv)
    if args.num_workers < 1:
        parser.error(f"--num-workers must be 1 or more, not {args.num_workers}")
    corpus = make_corpus(args.output, args.num_workers, args.force)
    print(
        f"{args.output}: {'made' if corpus['made'] else 'already there,'} {corpus['minutes']} min, "
        f"{corpus['speakers']} speakers, {corpus['utterances']} utterances, {corpus['phones']} phones"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
