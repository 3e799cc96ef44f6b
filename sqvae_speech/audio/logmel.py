"""``LogMel``: the project's only log-mel, batched, on CPU or GPU."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sqvae_speech.audio.band_matrix import BandMatrix
from sqvae_speech.audio.filterbank import mel_filterbank
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.errors import UserError

# Frames transformed at once: bounds the memory of an hour-long recording. On a CPU they stay in its caches: at n_fft
# 2048 in float64 a transform of 2048 frames at once takes five times as long a frame as one of 128.
_FRAMES_AT_ONCE = 8192
_FRAMES_AT_ONCE_ON_CPU = 128


class LogMelOutput(NamedTuple):
    """What :class:`LogMel` returns.

    Attributes:
        mel: (B, n_mels, frames) float32; 0.0 in the frames past an utterance's own length.
        lengths: (B,) int64, each utterance's number of frames.
        peak: (B,) float32, largest absolute sample of each wav as it came, before any normalisation.
    """

    mel: Tensor
    lengths: Tensor
    peak: Tensor


class LogMel(nn.Module):
    """Log-mel spectrograms of a batch of wavs, as :class:`MelSpec` defines them.

    An utterance's mel is the same alone and in any batch: it is padded at its own end, and its dynamic range counts
    from its own largest value. Gradients flow to ``wav``. Silence gives the floor that ``clamp`` sets, never NaN.

    The arithmetic is float64 and rounded once, at the end: the Fourier transform's error is relative to a frame's
    loudest bin. In float32 it changes logarithms without a floor, in bands that resampling has left empty, by up to
    1.5; normalised dB, whose floor lies ``dynamic_range`` below the loudest, by less than 5e-5, in half the time.

    Args:
        spec: the settings.
        dtype: arithmetic, ``torch.float64`` or ``torch.float32``.
    """

    window: Tensor

    def __init__(self, spec: MelSpec, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.spec = spec
        window = torch.hann_window(spec.win_length, periodic=True, dtype=torch.float64)
        self.register_buffer("window", window.to(dtype), persistent=False)
        self._filters = BandMatrix(torch.from_numpy(mel_filterbank(spec).T).to(dtype))

    def forward(self, wav: Tensor, lengths: Tensor | None = None) -> LogMelOutput:
        """Compute the log-mels.

        Args:
            wav: (B, T) floating point, at ``spec.sample_rate``, in [-1, 1] where the spec has no ``peak``.
            lengths: (B,) integers, each wav's number of real samples; ``None``: all. What lies beyond is ignored.

        Raises:
            UserError: the shape is wrong, a wav is shorter than ``spec.min_samples``, or holds NaN or infinity.
        """
        lengths = self._checked_lengths(wav, lengths)
        wav = wav.to(self.window.dtype)
        rows = [row[:length] for row, length in zip(wav.detach(), lengths.tolist(), strict=True)]
        peak = torch.stack([torch.maximum(row.amax(), -row.amin()) for row in rows])  # without a copy
        if not torch.isfinite(peak).all():
            bad = (~torch.isfinite(peak)).nonzero()[0].item()
            raise UserError(
                f"wav {bad} of the batch holds NaN or infinite samples; repair or leave out the recording"
            )

        if self.spec.peak is not None:
            # A silent wav stays silent: dividing by its peak is where the published features turn into NaN.
            wav = wav * torch.where(peak > 0, self.spec.peak / peak, 1.0)[:, None]
        if self.spec.preemphasis:
            wav = torch.cat([wav[:, :1], wav[:, 1:] - self.spec.preemphasis * wav[:, :-1]], dim=1)
        frames = self._frames(wav, lengths)
        mel = self.linear(frames)
        num_frames = 1 + (lengths + 2 * self.spec.pad_samples - self.spec.n_fft) // self.spec.hop_length
        beyond = (torch.arange(mel.shape[2], device=mel.device) >= num_frames[:, None])[:, None]
        loudest = mel.masked_fill(beyond, 0.0).amax(dim=(1, 2))
        return LogMelOutput(self.log(mel, loudest).masked_fill(beyond, 0.0).float(), num_frames, peak.float())

    def _checked_lengths(self, wav: Tensor, lengths: Tensor | None) -> Tensor:
        if wav.ndim != 2 or not wav.is_floating_point():
            raise UserError(f"wav is {tuple(wav.shape)} {wav.dtype}; it has to be (batch, samples) of floating point")
        batch, samples = wav.shape
        if lengths is None:
            lengths = torch.full((batch,), samples, dtype=torch.int64)
        if lengths.shape != (batch,) or lengths.is_floating_point():
            raise UserError(
                f"lengths are {tuple(lengths.shape)} {lengths.dtype}; they have to be ({batch},) integers"
            )
        if batch == 0 or int(lengths.max()) > samples:
            raise UserError(f"lengths go up to {lengths.tolist()}, the wav is {tuple(wav.shape)}")
        shortest, needed = int(lengths.min()), self.spec.min_samples
        if shortest < needed:
            raise UserError(
                f"a wav of {shortest} samples is too short for a {self.spec.name} mel, which needs at least {needed} "
                f"({1000 * needed / self.spec.sample_rate:.1f} ms at {self.spec.sample_rate} Hz); leave it out"
            )
        return lengths.to(wav.device, torch.int64)

    def _frames(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Return the samples under each window, (B, frames, win_length), each wav padded at its own two ends."""
        spec = self.spec
        mode = "reflect" if spec.pad_mode == "reflect" else "constant"
        rows = []
        for row, length in zip(wav, lengths.tolist(), strict=True):
            # Where in n_fft the window lies does not change a magnitude: keep only the samples under a window.
            end = spec.window_start + (spec.num_frames(length) - 1) * spec.hop_length + spec.win_length
            inside = row[None, max(0, spec.window_start) : min(length, end)]
            rows.append(functional.pad(inside, (max(0, -spec.window_start), max(0, end - length)), mode)[0])
        # frames that this adds behind a shorter wav's own are blanked later
        padded = rows[0][None] if len(rows) == 1 else nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return padded.unfold(1, spec.win_length, spec.hop_length)

    def linear(self, frames: Tensor) -> Tensor:
        """Mel bands before the logarithm, a bounded number of frames at a time.

        Args:
            frames: (B, frames, win_length), the samples under each window.

        Returns:
            (B, n_mels, frames); of a wav that is ``g`` times as loud, ``g ** power`` times as much.
        """
        at_once = _FRAMES_AT_ONCE_ON_CPU if frames.device.type == "cpu" else _FRAMES_AT_ONCE
        mels = [
            torch.cat([self._linear_of_part(part) for part in group.split(at_once, dim=1)], dim=1)
            for group in frames.split(max(1, at_once // frames.shape[1]))
        ]
        return torch.cat(mels).transpose(1, 2)

    def _linear_of_part(self, frames: Tensor) -> Tensor:
        """(B, frames, win_length) to (B, frames, n_mels)."""
        parts = torch.view_as_real(torch.fft.rfft(frames * self.window, n=self.spec.n_fft))
        squares = parts * parts if parts.requires_grad else parts.mul_(parts)
        magnitude = squares[..., 0] + squares[..., 1]  # with the root a third of the time that abs() takes
        if self.spec.power == 1.0:
            if parts.requires_grad:
                # at 0 the square root has no gradient: it would be NaN, where silence has to give 0
                magnitude = magnitude.clamp(min=torch.finfo(magnitude.dtype).tiny).sqrt()
            else:
                magnitude.sqrt_()
        return self._filters(magnitude)

    def log(self, mel: Tensor, loudest: Tensor) -> Tensor:
        """The logarithm of mel bands as the spec has it.

        Args:
            mel: (B, n_mels, frames), as :meth:`linear` gives.
            loudest: (B,) the largest value of each whole utterance, from which a dynamic range counts.

        Returns:
            (B, n_mels, frames).
        """
        spec = self.spec
        mel = mel.clamp(min=spec.clamp)
        if spec.log == "ln":
            return mel.log()
        if spec.log == "log10":
            return mel.log10()
        decibel = mel.log10() * (20.0 / spec.power)
        if spec.dynamic_range is not None:
            floor = loudest.clamp(min=spec.clamp).log10() * (20.0 / spec.power) - spec.dynamic_range
            decibel = torch.maximum(decibel, floor[:, None, None])
            if spec.normalize:
                decibel = decibel / spec.dynamic_range + 1.0
        return decibel
