"""From log-mel back to sound: the ``Vocoder`` interface, and Griffin-Lim, which needs no trained weights."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sqvae_speech.audio.filterbank import mel_filterbank
from sqvae_speech.audio.mel_inversion import MelInversion
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.phase_search import search_phases, with_magnitude
from sqvae_speech.audio.windowed_transform import WindowedTransform
from sqvae_speech.errors import UserError, nearest

# On speech, the mel of the spectrum found is then 0.05 dB (root mean square) from the mel asked for, or less.
_MEL_UPDATES = 40
_FRAMES_AT_ONCE = 4096
_FRAMES_AT_ONCE_ON_CPU = 128  # whose spectra its caches hold
_LEAST_WEIGHT = 1e-6  # of windows over a sample; only the very first ones have less
_FULL_SCALE = 0.999
_FILTER_BLOCK = 32  # samples


class Vocoder(ABC):
    """Turns log-mels into wavs. One method, :meth:`vocode`, and one property, :attr:`mel_spec`."""

    @property
    @abstractmethod
    def mel_spec(self) -> MelSpec:
        """The features it takes; those of any other spec sound wrong, so callers compare first."""

    @abstractmethod
    def vocode(self, mel: Tensor, peak: Tensor | float | None = None, lengths: Tensor | None = None) -> Tensor:
        """Synthesise.

        Args:
            mel: (n_mels, T), or (B, n_mels, T) floating point, as :class:`~sqvae_speech.audio.logmel.LogMel` gives.
            peak: largest absolute sample of the recording (a number, or (B,)), as ``LogMelOutput.peak``; brings back
                the level that a spec with ``peak`` removes. ``None`` leaves the level that the spec normalises to.
                Specs without ``peak`` keep the level in the mel and do not need it.
            lengths: (B,) integers, real frames of each utterance; ``None``: all. Each utterance sounds the same alone
                and in any batch.

        Returns:
            (samples,) or (B, samples) float32 at ``mel_spec.sample_rate``: ``mel_spec.num_samples(frames)`` samples
            of each utterance, then zeros. An utterance that would exceed full scale is scaled down to 0.999.

        Raises:
            UserError: the mel's shape is wrong or it holds NaN or infinity, or peak or lengths do not fit it.
        """


class GriffinLim(Vocoder):
    """Griffin-Lim with momentum (Perraudin, Balazs, Sondergaard, WASPAA 2013), from mel bands.

    The logarithm and the normalisation are undone; a linear spectrum, never negative, that has these mel bands is
    found (:class:`~sqvae_speech.audio.mel_inversion.MelInversion`); phases are found by going to and fro between
    spectrum and wav; then pre-emphasis is undone and the level restored. The first phases are those of one fixed
    noise: the result is always the same.

    Args:
        mel_spec: the features it is to take.
        n_iter: rounds of phase search; more than 60 gain little.
        momentum: 0 is the original algorithm, 0.99 the fast one; 1 and more can diverge.

    Raises:
        UserError: ``n_iter`` or ``momentum`` is not legal.
    """

    def __init__(self, mel_spec: MelSpec, n_iter: int = 60, momentum: float = 0.99):
        if n_iter < 1:
            raise UserError(f"n_iter is {n_iter}; Griffin-Lim needs at least 1 round (60 is the default)")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum is {momentum}; it has to be from 0 to less than 1 (0.99 is the default)")
        self._mel_spec = mel_spec
        self._n_iter = n_iter
        self._momentum = momentum
        self._n_fft = mel_spec.smallest_n_fft
        self._bin_step = mel_spec.n_fft // self._n_fft
        self._inversion = MelInversion(mel_filterbank(mel_spec), _MEL_UPDATES)
        self._transform = WindowedTransform(mel_spec.win_length, mel_spec.hop_length, self._n_fft, _LEAST_WEIGHT)

    @property
    def mel_spec(self) -> MelSpec:
        """The features it takes, any :class:`MelSpec`."""
        return self._mel_spec

    @torch.no_grad()
    def vocode(self, mel: Tensor, peak: Tensor | float | None = None, lengths: Tensor | None = None) -> Tensor:
        """See :meth:`Vocoder.vocode`."""
        spec = self._mel_spec
        single = mel.ndim == 2
        batch = mel[None] if single else mel
        lengths = check_mel(batch, lengths, spec)

        # A CPU does not gain from batches, and loses by padding: there each utterance goes alone, at its own length.
        rows = len(batch) if batch.is_cuda else 1
        parts = zip(batch.split(rows), lengths.split(rows), strict=True)
        wavs = [self._synthesise(part[:, :, : int(n.max())], n) for part, n in parts]
        longest = max(wav.shape[1] for wav in wavs)
        wav = torch.cat([fit_samples(wav, longest) for wav in wavs])
        wav = limit_level(restore_level(wav, peak, spec))
        return wav[0].float() if single else wav.float()

    def _synthesise(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Return the wavs, (B, samples) float64, at the level that the mel has, zero past each utterance's length."""
        spec = self._mel_spec
        real = torch.arange(mel.shape[2], device=mel.device) < lengths[:, None]
        linear = undo_log(mel.double().masked_fill(~real[:, None], -math.inf), spec)
        # Everything up to the level is the same at any scale: each utterance is brought to 1, and float32 is enough.
        scale = linear.amax(dim=(1, 2), keepdim=True)
        magnitude = self._undo_mel((linear / scale).float())
        wav = self._find_wav(magnitude.masked_fill(~real[..., None], 0.0), real).double()
        samples = torch.tensor([spec.num_samples(n) for n in lengths.tolist()], device=mel.device)
        longest = int(samples.max())
        beyond = torch.arange(longest, device=mel.device) >= samples[:, None]
        wav = fit_samples(wav, longest).masked_fill(beyond, 0.0)
        wav = undo_preemphasis(wav, spec.preemphasis).masked_fill(beyond, 0.0)
        return wav * scale[:, 0] ** (1.0 / spec.power)

    def _undo_mel(self, mel: Tensor) -> Tensor:
        """Return the magnitudes, (B, frames, bins), whose mel bands are ``mel`` (B, n_mels, frames), linear."""
        inversion = self._inversion.to(mel.device)
        frames = mel.transpose(1, 2).flatten(0, 1)
        at_once = _FRAMES_AT_ONCE_ON_CPU if mel.device.type == "cpu" else _FRAMES_AT_ONCE
        spectrum = torch.cat([inversion(part)[:, :: self._bin_step] for part in frames.split(at_once)])
        spectrum = spectrum.unflatten(0, (len(mel), -1))
        return spectrum.sqrt() if self._mel_spec.power == 2.0 else spectrum

    def _find_wav(self, magnitude: Tensor, real: Tensor) -> Tensor:
        """Return the wav, (B, samples), from sample 0 on, whose magnitudes are nearest to those given.

        Args:
            magnitude: (B, frames, bins) float32, 0 in frames that are not real.
            real: (B, frames) bool.
        """
        transform = self._transform.to(magnitude.device)
        span = (magnitude.shape[1] - 1) * transform.hop_length + transform.win_length
        # NumPy draws one after another: a longer noise begins with the shorter, whatever the batch.
        noise = torch.from_numpy(np.random.default_rng(0).standard_normal(span, dtype=np.float32))
        guess = with_magnitude(transform.frames_of(noise[None].to(magnitude.device)), magnitude)
        mask = None if real.all() else real
        wav = search_phases(transform, guess, magnitude, self._n_iter, mask=mask, momentum=self._momentum)
        return wav[:, -self._mel_spec.window_start :]


def load_vocoder(
    name: str, mel_spec: MelSpec, device: str | torch.device = "cpu", *, others: Sequence[str] = ()
) -> Vocoder:
    """Return a vocoder for features of ``mel_spec``; :func:`sqvae_speech.models.vocoders.load_vocoder` knows trained
    ones of this project too.

    Args:
        name: ``griffin_lim``; ``griffin_lim:100`` with another number of rounds; ``hub:<repository>:<entry>`` and
            ``vocos`` (see :mod:`.hub_vocoder`).
        mel_spec: the features that it is to be given.
        device: that a network computes on; Griffin-Lim computes where its mels are.
        others: names that the caller knows besides, for the message.

    Raises:
        UserError: there is no such vocoder, it takes other features, or it cannot be had.
    """
    kind, _, rest = name.partition(":")
    if kind in ("hub", "vocos"):
        from sqvae_speech.audio.hub_vocoder import load_hub_vocoder, load_vocos

        return (load_hub_vocoder if kind == "hub" else load_vocos)(name, mel_spec, device)
    if kind != "griffin_lim":
        legal = ("griffin_lim", "griffin_lim:<rounds>", "hub:<repository>:<entry>", "vocos", *others)
        kinds = [one.partition(":")[0] for one in legal]
        raise UserError(f"no vocoder {name!r}{nearest(kind, kinds)} (legal: {', '.join(legal)})")
    if rest and not rest.isdecimal():
        raise UserError(f"vocoder {name!r}: {rest!r} is no number of rounds, as in griffin_lim:100")
    return GriffinLim(mel_spec, int(rest)) if rest else GriffinLim(mel_spec)


# ---- what vocoders share


def check_mel(mel: Tensor, lengths: Tensor | None, spec: MelSpec) -> Tensor:
    """Check what a vocoder is given; returns the lengths, (B,) int64.

    Raises:
        UserError: see :meth:`Vocoder.vocode`.
    """
    lengths = _checked_lengths(mel, lengths, spec)
    real = torch.arange(mel.shape[2], device=mel.device) < lengths[:, None]
    if not torch.isfinite(mel.masked_fill(~real[:, None], 0.0)).all():
        raise UserError("the mel holds NaN or infinity; the model that made it has diverged, use another checkpoint")
    return lengths


def fit_samples(wav: Tensor, samples: int) -> Tensor:
    """Cut or fill with zeros: (..., T) -> (..., samples)."""
    return F.pad(wav, (0, max(0, samples - wav.shape[-1])))[..., :samples]


def restore_level(wav: Tensor, peak: Tensor | float | None, spec: MelSpec) -> Tensor:
    """Give (B, T) the level of recordings of this ``peak``, which features with ``spec.peak`` have lost.

    Raises:
        UserError: a peak that is none.
    """
    if spec.peak is None or peak is None:
        return wav
    return wav * (_checked_peak(peak, len(wav), wav) / spec.peak)[:, None]


def limit_level(wav: Tensor) -> Tensor:
    """Scale each of (B, T) that exceeds full scale down to 0.999."""
    loudest = wav.abs().amax(dim=1, keepdim=True)
    return wav * torch.where(loudest > 1.0, _FULL_SCALE / loudest, 1.0)


def _checked_lengths(mel: Tensor, lengths: Tensor | None, spec: MelSpec) -> Tensor:
    if mel.ndim != 3 or mel.shape[1] != spec.n_mels or not mel.is_floating_point() or 0 in mel.shape:
        raise UserError(
            f"mel is {tuple(mel.shape)} {mel.dtype}; for {spec.name} it has to be (batch, {spec.n_mels}, frames) or "
            f"({spec.n_mels}, frames) of floating point, with at least one frame"
        )
    if lengths is None:
        return torch.full((len(mel),), mel.shape[2], device=mel.device)
    if lengths.shape != (len(mel),) or lengths.is_floating_point():
        raise UserError(f"lengths are {tuple(lengths.shape)} {lengths.dtype}; they have to be ({len(mel)},) integers")
    if int(lengths.min()) < 1 or int(lengths.max()) > mel.shape[2]:
        raise UserError(f"lengths are {lengths.tolist()}; each has to be from 1 to the mel's {mel.shape[2]} frames")
    return lengths.to(mel.device, torch.int64)


def _checked_peak(peak: Tensor | float, batch: int, like: Tensor) -> Tensor:
    peaks = torch.as_tensor(peak, dtype=like.dtype, device=like.device)
    if peaks.shape not in ((), (1,), (batch,)) or not (torch.isfinite(peaks) & (peaks >= 0)).all():
        raise UserError(f"peak is {peaks.tolist()}; it has to be one number, 0 or more, or {batch} of them")
    return peaks.expand(batch)


def undo_log(mel: Tensor, spec: MelSpec) -> Tensor:
    """Return the linear mel, of the spec's power; minus infinity becomes 0."""
    if spec.log == "ln":
        return mel.exp()
    if spec.log == "db":
        if spec.normalize and spec.dynamic_range is not None:
            mel = (mel - 1.0) * spec.dynamic_range
        mel = mel * (spec.power / 20.0)
    return (mel * math.log(10.0)).exp()  # in half the time of a power of 10


def undo_preemphasis(wav: Tensor, preemphasis: float) -> Tensor:
    """Return ``y`` of ``y[t] = wav[t] + preemphasis * y[t - 1]``, (B, T): within blocks by a product of matrices,
    from block to block by the same filter again.
    """
    if not preemphasis:
        return wav
    batch, samples = wav.shape
    count = -(-samples // _FILTER_BLOCK)
    blocks = fit_samples(wav, count * _FILTER_BLOCK).view(batch, count, _FILTER_BLOCK)
    powers = preemphasis ** torch.arange(_FILTER_BLOCK + 1, device=wav.device, dtype=torch.float64)
    # column t holds what sample t takes of the samples of its block: the powers of their lags, 0 of those to come
    response = F.pad(powers[:-1], (_FILTER_BLOCK - 1, 0)).unfold(0, _FILTER_BLOCK, 1).flip(1).T.to(wav.dtype)
    blocks = blocks @ response
    if count > 1:
        # what a block ends with goes on in those after it
        ends = undo_preemphasis(blocks[..., -1], float(powers[-1]))
        blocks = blocks + F.pad(ends, (1, 0))[:, :-1, None] * powers[1:].to(wav.dtype)
    return blocks.flatten(1)[:, :samples]
