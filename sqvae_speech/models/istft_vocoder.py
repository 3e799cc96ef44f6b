"""Our own vocoder behind the ``Vocoder`` interface: whole, in batches, or while the mel comes."""

from pathlib import Path

import torch
from torch import Tensor

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.vocoder import Vocoder, check_mel, fit_samples, limit_level, restore_level, undo_preemphasis
from sqvae_speech.errors import UserError
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, load_trained_vocoder
from sqvae_speech.models.vocoder_model import VocoderModel
from sqvae_speech.models.vocoder_network import Polar

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
            return self._model.synthesise(mel, lengths if len(mel) > 1 else None)
        stream = VocoderStream(self._model)
        pieces = [stream.add(piece) for piece in mel.split(_FRAMES_AT_ONCE, dim=2)]
        return torch.cat([*pieces, stream.end()], dim=1)


class VocoderStream:
    """Push mel frames, get samples: together those of the whole mel, to rounding, however it is cut.

    The samples of a frame are told :attr:`latency` seconds of mel later. Memory does not grow. What lies on either
    side of new frames is computed again with them: pieces of a few frames cost more than long ones.

    Args:
        model: in evaluation mode.
        peak: of the recording, see :meth:`sqvae_speech.audio.vocoder.Vocoder.vocode`. What exceeds full scale is
            clipped: the utterance's own largest sample, which a whole one is scaled by, is not known yet.
    """

    def __init__(self, model: VocoderModel, peak: float | None = None):
        self._model = model
        self._peak = peak
        self._mel = torch.zeros(1, model.mel_spec.n_mels, 0, device=model.device)  # frames from number _first on
        self._first = 0
        self._polar: Polar | None = None  # magnitudes and phases of frames from number _first_polar on
        self._first_polar = 0
        self._samples = 0  # that have been told
        self._last = 0.0  # the last of them
        self._ended = False

    @property
    def latency(self) -> float:
        """Seconds from the centre of a mel frame to that of the last one that its samples wait for."""
        return (self._model.network.context + self._model.rounds.reach) / self._model.mel_spec.frame_rate

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
        told = self._first + self._mel.shape[2] - self._model.network.context
        return self._tell(told, told - self._model.rounds.reach)

    def end(self) -> Tensor:
        """:meth:`finish`, at the level that the mel has: (1, m)."""
        self._require_open()
        self._ended = True
        frames = self._first + self._mel.shape[2]
        if frames == 0:
            return self._mel[:, 0]
        return self._tell(frames, None)

    def _tell(self, polar_stop: int, stop: int | None) -> Tensor:
        """Compute what the network says of the frames up to ``polar_stop``, and the samples up to the centre of frame
        ``stop``; None: all.
        """
        model, context, reach = self._model, self._model.network.context, self._model.rounds.reach
        spec, inverse = model.mel_spec, model.network.inverse
        known = self._first_polar + (0 if self._polar is None else self._polar.turn.shape[1])
        if polar_stop > known:
            said = model.network(self._mel[:, :, : polar_stop + context - self._first])
            said = Polar(*(part[:, known - self._first : polar_stop - self._first] for part in said))
            before = None if self._polar is None else self._polar.turn[:, -1]
            said = Polar(said.log_magnitude, model.rounds.phases(said.turn, before))
            self._polar = (
                said
                if self._polar is None
                else Polar(*(torch.cat(parts, dim=1) for parts in zip(self._polar, said, strict=True)))
            )
        total = spec.num_samples(polar_stop) if stop is None else stop * spec.hop_length
        if self._polar is None or total <= self._samples:
            return self._mel[:, 0, :0]
        frames = self._polar.turn.shape[1]
        mel = self._mel[:, :, self._first_polar - self._first :][:, :, :frames]
        wav = model.rounds(*self._polar, mel)
        begin = inverse.start + self._first_polar * spec.hop_length  # the sample that it begins with
        wav = fit_samples(wav[:, self._samples - begin :], total - self._samples)
        self._samples = total
        wav = self._without_preemphasis(wav)
        # frames that samples to come depend on
        keep = max(self._first_polar, total // spec.hop_length - reach)
        self._polar = Polar(*(part[:, keep - self._first_polar :] for part in self._polar))
        self._first_polar = keep
        first = max(self._first, min(keep, polar_stop - context))
        self._mel, self._first = self._mel[:, :, first - self._first :], first
        return wav

    def _without_preemphasis(self, wav: Tensor) -> Tensor:
        """Go on with the filter where it was after the samples told so far."""
        factor = self._model.mel_spec.preemphasis
        if not factor:
            return wav
        fading = factor ** torch.arange(1, wav.shape[1] + 1, device=wav.device, dtype=torch.float64)
        wav = undo_preemphasis(wav.double(), factor) + fading * self._last
        self._last = float(wav[0, -1])
        return wav.float()

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
