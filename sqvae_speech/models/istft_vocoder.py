"""Our own vocoder behind the ``Vocoder`` interface: whole, in batches, or while the mel comes."""

from pathlib import Path

import torch
from torch import Tensor

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.vocoder import Vocoder, check_mel, fit_samples, limit_level, restore_level
from sqvae_speech.errors import UserError
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, load_trained_vocoder
from sqvae_speech.models.vocoder_network import VocoderNetwork

BUNDLED = Path(__file__).parents[1] / "pretrained" / "vocoder_mini"
NAMES = ("istft", "istft:<folder>")
_FRAMES_AT_ONCE = 2048  # of longer utterances in pieces, so that memory does not grow with them


class IstftVocoder(Vocoder):
    """A trained network as a vocoder.

    Args:
        bundle: of the network.
        device: that it computes on.
    """

    def __init__(self, bundle: VocoderBundle, device: str | torch.device = "cpu"):
        self.bundle = bundle
        self._model = bundle.model.to(device).eval()
        self._device = torch.device(device)

    @property
    def mel_spec(self) -> MelSpec:
        """The features that it was trained on."""
        return self.bundle.mel_spec

    @torch.no_grad()
    def vocode(self, mel: Tensor, peak: Tensor | float | None = None, lengths: Tensor | None = None) -> Tensor:
        """See :meth:`Vocoder.vocode`."""
        spec = self.mel_spec
        single = mel.ndim == 2
        batch = mel[None] if single else mel
        lengths = check_mel(batch, lengths, spec)
        batch, sizes = batch.float().to(self._device), lengths.to(self._device)
        # A CPU does not gain from batches, and loses by padding.
        rows = len(batch) if self._device.type != "cpu" and batch.shape[2] <= _FRAMES_AT_ONCE else 1
        parts = zip(batch.split(rows), sizes.split(rows), strict=True)
        wavs = [self._synthesise(part[:, :, : int(n.max())], n) for part, n in parts]
        longest = max(wav.shape[1] for wav in wavs)
        wav = torch.cat([fit_samples(wav, longest) for wav in wavs]).to(mel.device)
        wav = limit_level(restore_level(wav, peak, spec))
        return wav[0] if single else wav

    def stream(self, peak: float | None = None) -> "VocoderStream":
        """Samples while the mel comes, see :class:`VocoderStream`."""
        return VocoderStream(self._model, peak)

    def _synthesise(self, mel: Tensor, lengths: Tensor) -> Tensor:
        if mel.shape[2] <= _FRAMES_AT_ONCE:
            return self._model(mel, lengths if len(mel) > 1 else None)
        stream = VocoderStream(self._model)
        pieces = [stream.add(piece) for piece in mel.split(_FRAMES_AT_ONCE, dim=2)]
        return torch.cat([*pieces, stream.end()], dim=1)


class VocoderStream:
    """Push mel frames, get samples: together those of the whole mel, to rounding, however it is cut.

    The samples of a frame are told :attr:`latency` seconds of mel later. Memory does not grow.

    Args:
        model: in evaluation mode.
        peak: of the recording, see :meth:`sqvae_speech.audio.vocoder.Vocoder.vocode`. What exceeds full scale is
            clipped: the utterance's own largest sample, which a whole one is scaled by, is not known yet.
    """

    def __init__(self, model: VocoderNetwork, peak: float | None = None):
        self._model = model
        self._peak = peak
        device = model.inverse.window.device
        self._mel = torch.zeros(1, model.mel_spec.n_mels, 0, device=device)  # frames from number _first on
        self._first = 0
        self._done = 0  # frames whose spectrum has been added
        self._total = torch.zeros(1, 0, device=device)  # of samples that later frames add to, from _sample on
        self._weights = self._total
        self._sample = model.inverse.start
        self._ended = False

    @property
    def latency(self) -> float:
        """Seconds from the centre of a mel frame to the last one that its samples wait for."""
        frames = self._model.context + self._model.config.overlap // 2
        return frames / self._model.mel_spec.frame_rate

    @torch.no_grad()
    def push(self, mel: Tensor) -> Tensor:
        """Give (n_mels, n) frames; get the samples that they complete, (m,) float32 in [-1, 1], on the mel's device.

        Raises:
            UserError: another shape or type, NaN or infinity, or the stream has ended.
        """
        if mel.ndim != 2:
            raise UserError(f"mel is {tuple(mel.shape)}; push ({self._model.mel_spec.n_mels}, frames)")
        if mel.shape[1]:
            check_mel(mel[None], None, self._model.mel_spec)
        return self._levelled(self.add(mel[None].float().to(self._mel.device))).to(mel.device)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The mel ends here: get the rest, (m,) float32. :class:`UserError` when it has ended already."""
        return self._levelled(self.end())

    def add(self, mel: Tensor) -> Tensor:
        """:meth:`push` of (1, n_mels, n) without checks, at the level that the mel has: (1, m)."""
        self._require_open()
        self._mel = torch.cat([self._mel, mel], dim=2)
        return self._synthesise(self._first + self._mel.shape[2] - self._model.context)

    def end(self) -> Tensor:
        """:meth:`finish`, at the level that the mel has: (1, m)."""
        self._require_open()
        self._ended = True
        frames = self._first + self._mel.shape[2]
        if frames == 0:
            return self._total
        told = max(0, self._sample)
        wav = self._synthesise(frames)
        rest = self._model.inverse.divide(self._total, self._weights)[:, max(0, -self._sample) :]
        return fit_samples(torch.cat([wav, rest], dim=1), self._model.mel_spec.num_samples(frames) - told)

    def _synthesise(self, stop: int) -> Tensor:
        """Add the frames up to ``stop``; give the samples that no later one adds to."""
        model, inverse = self._model, self._model.inverse
        count = stop - self._done
        if count <= 0:
            return self._total[:, :0]
        spectrum = model.spectrum(self._mel[:, :, : stop + model.context - self._first])
        spectrum = spectrum[:, self._done - self._first : stop - self._first]
        total, weights = inverse.pieces(spectrum)
        held = self._total.shape[1]
        total[:, :held] += self._total
        weights = weights.clone()
        weights[:, :held] += self._weights
        whole = count * inverse.hop_length
        wav = inverse.divide(total[:, :whole], weights[:, :whole])[:, max(0, -self._sample) :]
        self._total, self._weights = total[:, whole:], weights[:, whole:]
        self._sample += whole
        self._done = stop
        keep = max(0, stop - model.context)
        self._mel, self._first = self._mel[:, :, keep - self._first :], keep
        return wav

    def _levelled(self, wav: Tensor) -> Tensor:
        return restore_level(wav, self._peak, self._model.mel_spec)[0].clamp(-1.0, 1.0)

    def _require_open(self) -> None:
        if self._ended:
            raise UserError("this stream has ended (finish() was called); open another with vocoder.stream()")


def load_istft_vocoder(name: str, mel_spec: MelSpec, device: str | torch.device = "cpu") -> IstftVocoder:
    """Load ``istft``, the small one that comes with the project, or ``istft:<folder>``.

    Args:
        name: see above; a folder as :func:`sqvae_speech.models.pretrained_vocoder.load_trained_vocoder` takes it.
        mel_spec: the features it is to be given.
        device: that it computes on.

    Raises:
        UserError: there is none, or it takes other features.
    """
    _, _, folder = name.partition(":")
    bundle = load_trained_vocoder(folder, str(device)) if folder else bundled_vocoder(str(device))
    try:
        bundle.mel_spec.require_same(mel_spec, f"vocoder {name}", "the mel")
    except UserError as error:
        raise UserError(
            f"{error}, train one for these features (`sqvae-speech train --config recipes/conf/vocoder.yaml`), or "
            "use --vocoder griffin_lim, which takes any"
        ) from None
    return IstftVocoder(bundle, device)


def bundled_vocoder(device: str = "cpu") -> VocoderBundle:
    """The small one that comes with the project, for ``sqvae16k``.

    Raises:
        UserError: it is not there.
    """
    if not BUNDLED.is_dir():
        raise UserError(
            "this copy of sqvae_speech comes without its small vocoder; name another, istft:exp/NAME, or get the "
            "whole project again"
        )
    return load_trained_vocoder(BUNDLED, device)
