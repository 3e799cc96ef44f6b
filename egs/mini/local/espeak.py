"""espeak-ng through ctypes: what it says, and when each phone of it begins.

The structure and the constants are those of espeak-ng's public header, ``speak_lib.h``.
"""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sqvae_speech.data.espeak import STRESS, open_engine
from sqvae_speech.errors import UserError

SAMPLE_RATE = 22050
SILENCE = "SIL"
SILENT = 4  # of 32768: espeak's closures and pauses are exact zeros but for the last step of a decay

Phone = tuple[int, str]  # first sample, name


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
_UTF8 = 1
_LIST_TERMINATED, _PHONEME = 0, 7
_RATE, _VOLUME, _PITCH = 1, 2, 3


class Espeak:
    """One espeak-ng engine; its state lasts for the process, so each voice is spoken in a process of its own."""

    def __init__(self) -> None:
        # kept whole: a folder that holds its data goes when the engine does
        self._engine = open_engine("the mini corpus is spoken by")
        self._library, self._data = self._engine.library, self._engine.data
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

    def choose(self, name: str, pitch: int, rate: int) -> None:
        """Speak from now on with a voice ``language+variant``, at a pitch of 0 to 99 and a rate in words a minute."""
        # espeak speaks a variant that it does not know with the plain voice, and says nothing
        known = Path(self._data, "voices", "!v", name.rpartition("+")[2]).is_file()
        if not known or self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise UserError(f"espeak-ng {self.version} has no voice {name!r}; pip install --upgrade espeakng-loader")
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_VOLUME, 75, 0)  # of 100, which clips the loudest timbres

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


def align(wav: np.ndarray, events: Sequence[Phone]) -> list[Phone]:
    """Turn phone events into an alignment of ``wav`` (T,) int16: starts at sample 0, no gaps, no empty phone.

    Events mark where the sound of a phone begins, which is not always where the phone does:

    - the closure of a stop lies before its event, as zeros, and is given back to it;
    - a pause and a glide between vowels both come without a name: a silent one is SIL, a sounding one
      belongs to the phone before it;
    - an ``l`` or ``r`` that espeak has drawn into the vowel before it leaves an event without a sound of its own:
      the vowel takes its name in (``oʊl``, as espeak itself names ``əl`` or ``ɔːɹ``), since no boundary exists.
    """
    loud = np.flatnonzero(np.abs(wav.astype(np.int32)) > SILENT)
    phones: list[Phone] = [(0, SILENCE)]
    for position, (sample, name) in enumerate(events):
        end = events[position + 1][0] if position + 1 < len(events) else len(wav)
        if not 0 <= sample <= end <= len(wav):
            raise RuntimeError(f"espeak-ng's events are out of order: {name!r} at {sample} to {end} of {len(wav)}")
        name = name.strip().lstrip(STRESS).replace(":", "ː")
        before, previous = phones[-1]
        first, last = np.searchsorted(loud, (sample, end))
        if last > first and name:
            if first and previous != SILENCE and int(loud[first - 1]) >= before:
                sample = int(loud[first - 1]) + 1  # what sounded last ended here: from here on it is closed
            phones.append((sample, name))
        elif last == first and name in ("", "ʔ"):
            if sample < end and (name or previous != SILENCE):
                phones.append((sample, name or SILENCE))
        elif name and previous != SILENCE:
            phones[-1] = (before, previous + name)
    return phones if len(phones) == 1 or phones[1][0] > 0 else phones[1:]


def pad(wav: np.ndarray, phones: Sequence[Phone], margin: int) -> tuple[np.ndarray, list[Phone]]:
    """Put ``margin`` samples of silence around a sentence, in place of what espeak leaves there."""
    loud = np.flatnonzero(np.abs(wav.astype(np.int32)) > SILENT)
    first, last = int(loud[0]), int(loud[-1]) + 1
    silence = np.zeros(margin, np.int16)
    spoken = [(sample - first + margin, name) for sample, name in phones if sample < last]
    # what begins before the first sound begins with it
    spoken = [(max(sample, margin), name) for sample, name in spoken if name != SILENCE or sample > margin]
    padded = np.concatenate((silence, wav[first:last], silence))
    return padded, [(0, SILENCE), *spoken, (last - first + margin, SILENCE)]
