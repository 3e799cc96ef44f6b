"""``LogMel``: the project's only log-mel, batched, on CPU or GPU."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sqvae_speech.audio.filterbank import mel_filterbank
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.errors import UserError

# Frames transformed at once: their spectra (2 MB at n_fft 2048) stay in the processor's caches, and in memory that
# the allocator keeps. With 2,048 frames, most of the time goes into fresh pages.
_FRAMES_AT_ONCE = 128


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
    from its own largest value. The arithmetic is float64 and rounded once, at the end: the Fourier transform's error
    in float32 is relative to a frame's loudest bin, and changed the logarithm of bands that resampling leaves empty
    by up to 1.3. Gradients flow to ``wav``. Silence gives the floor that ``clamp`` sets, never NaN.

    Args:
        spec: the settings.
        dtype: arithmetic, ``torch.float64`` or, for devices that lack it, ``torch.float32``.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, spec: MelSpec, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.spec = spec
        window = torch.hann_window(spec.win_length, periodic=True, dtype=torch.float64)
        self.register_buffer("window", window.to(dtype), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filterbank(spec)).to(dtype), persistent=False)

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
        real = torch.arange(wav.shape[1], device=wav.device) < lengths[:, None]
        wav = wav.masked_fill(~real, 0.0)
        peak = wav.detach().abs().amax(dim=1)
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
        num_frames = spec.num_frames(int(lengths.max()))
        # Where in n_fft the window lies does not change a magnitude: cut only the win_length samples under it.
        span = (num_frames - 1) * spec.hop_length + spec.win_length
        position = torch.arange(span, device=wav.device) + spec.window_start
        last = lengths[:, None] - 1
        if spec.pad_mode == "reflect":
            source = position.abs()
            source = torch.where(source > last, 2 * last - source, source)
        else:
            source = position.expand(len(wav), -1)
        # Beyond a reflection's reach only frames that are masked later read these; outside a zero-padded wav all do.
        outside = (source < 0) | (source > last)
        source = source.masked_fill(outside, 0)
        padded = wav.gather(1, source).masked_fill(outside, 0.0)
        return padded.unfold(1, spec.win_length, spec.hop_length)

    def linear(self, frames: Tensor) -> Tensor:
        """Mel bands before the logarithm, a bounded number of frames at a time.

        Args:
            frames: (B, frames, win_length), the samples under each window.

        Returns:
            (B, n_mels, frames); of a wav that is ``g`` times as loud, ``g ** power`` times as much.
        """
        mels = []
        for part in frames.split(max(1, _FRAMES_AT_ONCE // len(frames)), dim=1):
            spectrum = torch.fft.rfft(part * self.window, n=self.spec.n_fft)
            if self.spec.power == 1.0 and spectrum.requires_grad:
                magnitude = spectrum.abs()  # which has a gradient at 0
            else:
                magnitude = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
                magnitude = magnitude.sqrt_() if self.spec.power == 1.0 else magnitude
            mels.append(magnitude @ self.filters.T)
        return torch.cat(mels, dim=1).transpose(1, 2)

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
