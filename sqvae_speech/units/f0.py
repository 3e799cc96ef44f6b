"""Fundamental frequency, one value a unit."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.sources import WavSource
from sqvae_speech.audio.stream import Resampler
from sqvae_speech.errors import UserError

if TYPE_CHECKING:
    from sqvae_speech.models.speech import SpeechModel

_CHUNK_FRAMES = 3000  # tracked at a time: 30 s at 100 frames a second
_MARGIN_FRAMES = 50  # tracked around each chunk and thrown away


@dataclass(frozen=True)
class F0:
    """How F0 is measured: pYIN (Mauch and Dixon, ICASSP 2014) as librosa has it, every mel frame.

    Attributes:
        minimum: of what is looked for, Hz.
        maximum: of what is looked for, Hz.
    """

    minimum: float = 65.0
    maximum: float = 400.0

    def to_dict(self) -> dict[str, Any]:
        """For the metadata of a store."""
        return {"method": "pyin", **asdict(self)}

    def check(self, sample_rate: int) -> None:
        """Raise :class:`UserError` for a range that is none."""
        if not 20 <= self.minimum < self.maximum <= sample_rate / 4:
            raise UserError(
                f"--f0-range {self.minimum:g} {self.maximum:g}; legal is 20 to {sample_rate / 4:g} Hz, lower first"
            )


def f0_of_units(source: WavSource, spec: MelSpec, model: "SpeechModel", num_units: int, settings: F0) -> np.ndarray:
    """The F0 of every unit of a wav, in memory that does not grow with its length where the wav is read in blocks.

    F0 is tracked at the middle of every mel frame; that of a unit is the mean over those of its frames that are
    voiced, and 0 when none is.

    Args:
        source: the wav, at any rate.
        spec: of the log-mel, which says where frames are.
        model: says which frames a unit has.
        num_units: U.
        settings: the range.

    Returns:
        (U,) float32, Hz.
    """
    first, each = model.first_frame, model.frames_per_unit
    frames = track_f0(source, spec, first + each * num_units, settings)[first:].reshape(num_units, each)
    voiced = frames > 0
    return (frames.sum(axis=1) / np.maximum(voiced.sum(axis=1), 1)).astype(np.float32)


def track_f0(source: WavSource, spec: MelSpec, num_frames: int, settings: F0) -> NDArray[np.float32]:
    """F0 at the middle of the first ``num_frames`` mel frames, (F,) float32, Hz, 0 where unvoiced."""
    settings.check(spec.sample_rate)
    hop, offset = spec.hop_length, spec.window_start + spec.win_length // 2
    pieces = [
        _pyin(wav, spec, settings)[skip : skip + count]
        for wav, skip, count in _chunks(_resampled(source, spec.sample_rate), hop, offset, num_frames)
    ]
    return np.concatenate([np.zeros(0, np.float32), *pieces])


def _resampled(source: WavSource, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    resampler = Resampler(source.sample_rate, sample_rate)
    for block in source.blocks():
        yield resampler.push(block)
    yield resampler.push(np.zeros(0, np.float32), last=True)


def _chunks(
    blocks: Iterable[NDArray[np.float32]], hop: int, offset: int, num_frames: int
) -> Iterator[tuple[NDArray[np.float32], int, int]]:
    """Stretches of a wav: ``(samples, skip, count)``.

    Frame ``skip + n`` of the stretch, n from 0 to count - 1, has its middle at sample ``(skip + n) hop`` of it; the
    ``count`` of all stretches add up to ``num_frames``. Where the wav has ended, zeros follow.
    """
    iterator = iter(blocks)
    held = np.zeros(0, np.float32)
    held_from = 0  # the sample that ``held`` begins with
    for start in range(0, num_frames, _CHUNK_FRAMES):
        count = min(_CHUNK_FRAMES, num_frames - start)
        first = start - min(start, _MARGIN_FRAMES)
        begin = first * hop + offset
        end = (start + count + _MARGIN_FRAMES) * hop + offset
        while held_from + len(held) < end and (block := next(iterator, None)) is not None:
            held = np.concatenate([held, block])
        before = np.zeros(max(0, held_from - begin), np.float32)  # only where the first frame's middle is below 0
        piece = np.concatenate([before, held[max(0, begin - held_from) : end - held_from]])
        least = (start + count - first) * hop + 1
        yield np.pad(piece, (0, max(0, least - len(piece)))), start - first, count
        keep = max(0, (start + count - _MARGIN_FRAMES) * hop + offset - held_from)
        held, held_from = held[keep:], held_from + min(keep, len(held))


def _pyin(wav: NDArray[np.float32], spec: MelSpec, settings: F0) -> NDArray[np.float32]:
    import librosa

    # at least three periods of the lowest pitch, as a power of two
    frame_length = 1 << int(np.ceil(np.log2(3 * spec.sample_rate / settings.minimum)))
    f0, _, _ = librosa.pyin(
        wav,
        fmin=settings.minimum,
        fmax=settings.maximum,
        sr=spec.sample_rate,
        frame_length=frame_length,
        hop_length=spec.hop_length,
        fill_na=0.0,
    )
    return f0.astype(np.float32)
