"""Reading and writing recordings."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from sqvae_speech.errors import UserError

logger = logging.getLogger(__name__)


class WavInfo(NamedTuple):
    """What a recording's header says.

    Attributes:
        num_samples: samples of each channel.
        sample_rate: Hz.
        channels: number of channels.
    """

    num_samples: int
    sample_rate: int
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sample_rate


def wav_info(path: str | os.PathLike[str]) -> WavInfo:
    """Return length, rate and channels from the header of a recording, without reading its samples.

    Raises:
        UserError: no such file, not a file, or not a format that libsndfile reads.
    """
    with _open(path) as file:
        return WavInfo(file.frames, file.samplerate, file.channels)


def read_wav(
    path: str | os.PathLike[str] | BinaryIO,
    sample_rate: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    channel: int | str | None = None,
) -> tuple[np.ndarray, int]:
    """Read one channel of a recording (WAV, FLAC, Ogg, MP3: whatever libsndfile reads), or a part of it.

    A part is cut at its own rate, then resampled with soxr's "HQ" filter when ``sample_rate`` differs.

    Args:
        path: the file, or an open binary file (the standard output of a Kaldi pipe, read whole).
        sample_rate: Hz wanted; ``None`` keeps the recording's own.
        start: seconds at which to begin.
        end: seconds at which to stop; ``None``, or up to 10 ms past the end as rounded segment times are: to the end.
        channel: of a recording with several: its number from 0, or ``"mix"`` for their mean. ``None`` refuses them.

    Returns:
        ``(wav, sample_rate)``: (T,) float32, in [-1, 1] for integer formats (k-bit integers divided by 2^(k-1)), and
        its rate in Hz.

    Raises:
        UserError: no such file, unreadable, truncated, empty, NaN or infinite samples, several channels and none
            chosen, a channel or a part that the recording does not have.
    """
    with _open(path) as file:
        name, rate, total = file.name, file.samplerate, file.frames
        if total == 0:
            raise UserError(f"{name}: the recording is empty (0 samples); leave it out")
        first, last = _part(name, start, end, rate, total)
        picked = _channel(name, channel, file.channels)
        try:
            file.seek(first)
            wav = file.read(last - first, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{name}: cannot be decoded ({error.error_string}); get the file again") from None
    if len(wav) != last - first:
        raise UserError(f"{name}: truncated, {first + len(wav)} of {total} samples can be read; get the file again")
    bad = np.flatnonzero(~np.isfinite(wav).all(axis=1))
    if len(bad):
        where = f"{len(bad)} of {len(wav)} samples are NaN or infinite, the first at {(first + bad[0]) / rate:.3f} s"
        raise UserError(f"{name}: {where}; repair the recording or leave it out")
    mono = wav.mean(axis=1) if picked is None else wav[:, picked]
    if sample_rate is None or sample_rate == rate:
        return np.ascontiguousarray(mono, dtype=np.float32), rate
    return resample(mono, rate, sample_rate), sample_rate


def resample(wav: np.ndarray, sample_rate: int, new_sample_rate: int, method: str = "soxr") -> np.ndarray:
    """Resample (T,) float to ``new_sample_rate`` by one of :data:`RESAMPLERS`; the result is float32.

    Raises:
        UserError: an unknown method, a rate that is not above 0, or nothing would be left of so short a wav.
    """
    if method not in RESAMPLERS:
        raise UserError(f"unknown resampler {method!r}; legal are {', '.join(RESAMPLERS)}")
    if sample_rate <= 0 or new_sample_rate <= 0:
        raise UserError(f"cannot resample from {sample_rate} to {new_sample_rate} Hz; both have to be above 0")
    out = RESAMPLERS[method](np.asarray(wav, dtype=np.float32), sample_rate, new_sample_rate)
    if not len(out):
        raise UserError(f"{len(wav)} samples at {sample_rate} Hz leave none at {new_sample_rate} Hz; leave them out")
    return out


def _soxr(wav: np.ndarray, sample_rate: int, new_sample_rate: int) -> np.ndarray:
    """Polyphase filters of the SoX resampler, linear phase, quality "HQ" (20 bits)."""
    return soxr.resample(wav, sample_rate, new_sample_rate, quality="HQ")


def _sinc(wav: np.ndarray, sample_rate: int, new_sample_rate: int) -> np.ndarray:
    """Windowed sinc of torchaudio, with the settings of resampy's "kaiser_best"."""
    import torch
    from torchaudio.functional import resample as windowed_sinc

    return windowed_sinc(
        torch.from_numpy(wav),
        sample_rate,
        new_sample_rate,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    ).numpy()


RESAMPLERS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {"soxr": _soxr, "sinc": _sinc}


def write_wav(path: str | os.PathLike[str], wav: np.ndarray, sample_rate: int) -> None:
    """Write one channel as 16-bit PCM WAV, whatever the suffix; beside its name first, then renamed.

    Values are rounded to the nearest of the 2^16 steps; those outside [-1, 1) are clipped, and a warning is logged
    when they lie outside [-1, 1].

    Args:
        path: file to write; its folder is made if need be.
        wav: (T,) floating point.
        sample_rate: Hz.

    Raises:
        UserError: not one channel of floating point, or NaN or infinite samples.
    """
    wav = np.asarray(wav)
    if wav.ndim != 1 or not np.issubdtype(wav.dtype, np.floating):
        raise UserError(f"{path}: a wav is (samples,) of floating point, not {wav.shape} {wav.dtype}")
    if not np.isfinite(wav).all():
        raise UserError(
            f"{path}: {int((~np.isfinite(wav)).sum())} of {len(wav)} samples are NaN or infinite; not written"
        )
    over = int((np.abs(wav) > 1.0).sum())
    if over:
        logger.warning("%s: %d of %d samples clipped, peak %.2f", path, over, len(wav), np.abs(wav).max())
    pcm = np.clip(np.rint(wav.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        soundfile.write(partial, pcm, sample_rate, format="WAV", subtype="PCM_16")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _open(path: str | os.PathLike[str] | BinaryIO) -> soundfile.SoundFile:
    if isinstance(path, str | os.PathLike):
        if not os.path.exists(path):
            raise UserError(f"{path}: no such recording")
        if not os.path.isfile(path):
            raise UserError(f"{path}: not a file; a recording is wanted")
        if os.path.getsize(path) == 0:
            raise UserError(f"{path}: the file is empty (0 bytes); get it again, or leave it out")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        formats = "WAV, FLAC, Ogg and other formats of libsndfile are"
        raise UserError(f"{getattr(path, 'name', path)}: not a readable recording ({reason}); {formats}") from None


def _part(name: str, start: float, end: float | None, rate: int, total: int) -> tuple[int, int]:
    """Return the first sample and the one after the last."""
    first = round(start * rate)
    last = total if end is None else round(end * rate)
    if total < last <= total + 0.01 * rate:
        last = total
    if not 0 <= first < last <= total:
        asked = f"{start:g} to {'its end' if end is None else f'{end:g}'} s"
        raise UserError(f"{name}: no part from {asked}, the recording has {total / rate:.3f} s; correct the segment")
    return first, last


def _channel(name: str, channel: int | str | None, channels: int) -> int | None:
    """Return the channel's number, or None for the mean of all."""
    legal = "--channel mix (their mean) or " + "|".join(str(i) for i in range(channels))
    if channel is None and channels > 1:
        raise UserError(f"{name}: {channels} channels, one is wanted; choose with {legal}")
    if channel is None or channels == 1:
        return 0
    if channel == "mix":
        return None
    if str(channel) not in {str(i) for i in range(channels)}:
        raise UserError(f"{name}: no channel {channel!r}; choose with {legal}")
    return int(channel)
