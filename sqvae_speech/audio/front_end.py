"""What is done to a recording before its features are computed: channel, trimming, rate, loudness."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sqvae_speech.audio.loudness import integrated_loudness
from sqvae_speech.audio.wav import RESAMPLERS, resample
from sqvae_speech.errors import UserError

# Below -80 dB of full scale, 3 steps of 16 bits, there is no speech, and a peak normalisation would blow up noise.
SILENT_PEAK = 1e-4
# A recording counts as clipped when so many samples lie at full scale; a single one may be its normalised peak.
CLIPPED_LEVEL = 0.999
CLIPPED_SAMPLES = 3
TRIM_MARGIN = 0.1  # seconds kept before the first and after the last loud frame


class SilentRecording(UserError):
    """A recording without anything in it."""


class Prepared(NamedTuple):
    """A recording ready for its features.

    Attributes:
        wav: (T,) float32 at the rate that was asked for.
        onset, offset: the part of the input that it is, seconds.
        gain: dB that the loudness normalisation added, 0.0 without one.
        clipped: whether the input has at least :data:`CLIPPED_SAMPLES` samples at full scale.
    """

    wav: np.ndarray
    onset: float
    offset: float
    gain: float
    clipped: bool


@dataclass(frozen=True)
class FrontEnd:
    """What is done to every recording of a corpus, in this order.

    Attributes:
        channel: of recordings with several: ``"mix"`` (their mean) or a number from 0; None refuses them.
        trim: silence at both ends is cut: frames more than so many dB below the loudest, but for 0.1 s of margin
            (:func:`librosa.effects.trim`, frames of 2048 samples every 512). None keeps all.
        resample: how recordings of another rate are resampled, one of :data:`sqvae_speech.audio.wav.RESAMPLERS`;
            None refuses them.
        loudness: integrated loudness in LUFS (ITU-R BS.1770-4 by pyloudnorm) that every utterance is scaled to; those
            shorter than its block of 0.4 s are measured as one block. Samples may then exceed 1: features have no
            ceiling. None keeps the level.

    Raises:
        UserError: a setting that is not legal.
    """

    channel: str | None = None
    trim: float | None = None
    resample: str | None = None
    loudness: float | None = None

    def __post_init__(self) -> None:
        if self.channel is not None and self.channel != "mix" and not self.channel.isdecimal():
            raise UserError(f"channel {self.channel!r}; legal are mix and a number from 0 (--channel)")
        if self.trim is not None and not 0 < self.trim < 200:
            raise UserError(f"trim {self.trim:g} dB; legal is more than 0 and less than 200 (--trim)")
        if self.resample is not None and self.resample not in RESAMPLERS:
            raise UserError(f"resample {self.resample!r}; legal are {', '.join(RESAMPLERS)} (--resample)")
        if self.loudness is not None and not -70 < self.loudness <= 0:
            raise UserError(f"loudness {self.loudness:g} LUFS; legal is above -70 and up to 0 (--loudness)")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FrontEnd":
        """Rebuild from :meth:`to_dict`."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values, for JSON."""
        return dataclasses.asdict(self)

    def prepare(self, wav: np.ndarray, recording_rate: int, sample_rate: int, name: str) -> Prepared:
        """Apply everything but the choice of the channel.

        Args:
            wav: (T,) float32, one channel.
            recording_rate: its rate, Hz.
            sample_rate: Hz wanted.
            name: of the recording, for messages.

        Raises:
            UserError: another rate and no resampler; silence (:class:`SilentRecording`).
        """
        if recording_rate != sample_rate and self.resample is None:
            raise UserError(
                f"{name}: {recording_rate} Hz, the MelSpec has {sample_rate} Hz; pass --resample or another "
                "--mel-spec"
            )
        peak = max(abs(float(wav.min())), abs(float(wav.max())))  # without a copy of the whole
        if peak < SILENT_PEAK:
            raise SilentRecording(
                f"{name}: silent, its largest sample is {peak:.2g} of 1 (at least {SILENT_PEAK:g}); leave it out"
            )
        clipped = peak >= CLIPPED_LEVEL and int((np.abs(wav) >= CLIPPED_LEVEL).sum()) >= CLIPPED_SAMPLES
        first, last = (0, len(wav)) if self.trim is None else _loud_part(wav, recording_rate, self.trim)
        onset, offset = first / recording_rate, last / recording_rate
        wav = wav[first:last]
        if recording_rate != sample_rate and self.resample is not None:
            wav = resample(wav, recording_rate, sample_rate, self.resample)
        gain = 0.0
        if self.loudness is not None:
            loudness = integrated_loudness(wav, sample_rate)
            if not np.isfinite(loudness):
                raise SilentRecording(f"{name}: silent, its loudness is below -70 LUFS; leave it out")
            gain = self.loudness - loudness
            wav = wav * np.float32(10.0 ** (gain / 20))
        return Prepared(wav, onset, offset, gain, clipped)


def _loud_part(wav: np.ndarray, sample_rate: int, decibel: float) -> tuple[int, int]:
    """Return the first sample of the part that is not silence, with its margin, and the one after the last."""
    import librosa

    _, (first, last) = librosa.effects.trim(wav, top_db=decibel)
    margin = round(TRIM_MARGIN * sample_rate)
    return max(0, int(first) - margin), min(len(wav), int(last) + margin)
