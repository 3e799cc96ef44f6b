"""The network as inference runs it, and which samples a unit is about."""

import contextlib
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.stream import samples_of_frames
from sqvae_speech.models.modules import ConvBlock, ConvEncoder, length_mask
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.quantization.functional import at_least_float32


class InferenceEncoder(nn.Module):
    """A trained :class:`ConvEncoder` with its batch normalisations folded into the convolutions.

    Folding is exact but for rounding, and is done in float64. On a GPU convolutions run without TF32, whose error
    would make units depend on the company that an utterance is in.

    Args:
        encoder: is copied.
        dtype: of the convolutions; latents come out in float32, or in float64.
    """

    num_units = staticmethod(ConvEncoder.num_units)
    receptive_frames = ConvEncoder.receptive_frames

    def __init__(self, encoder: ConvEncoder, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype
        self.encoder = copy.deepcopy(encoder)
        self.encoder.blocks = nn.ModuleList(_folded(block) for block in self.encoder.blocks)
        self.encoder.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See :meth:`ConvEncoder.forward`; float32 in, and float32 or float64 out."""
        exact = (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if mel.is_cuda else contextlib.nullcontext()
        )
        with exact:
            return at_least_float32(self.encoder(mel.to(self.dtype), lengths))


def _without_tf32() -> contextlib.AbstractContextManager:
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _folded(block: nn.Module) -> ConvBlock:
    assert isinstance(block, ConvBlock)
    conv, norm, activation = block
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        None,
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        norm.weight.double(),
        norm.bias.double(),
    )
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        device=conv.weight.device,
        dtype=torch.float64,
    )
    with torch.no_grad():
        folded.weight.copy_(weight)
        folded.bias.copy_(bias)  # type: ignore[union-attr]
    return ConvBlock(folded, activation)


class InferenceModel(SpeechModel):
    """A trained model that encodes faster, always alike, and cannot be trained.

    Float32 rounds differently in batches of other shapes, in pieces and on other devices, by about 1e-6 of the
    latents, and where two codes are as equally probable as that, company would choose between them: about once in
    100,000 units of an untrained network. So units that a far larger disturbance of their latents could change are
    decided by the encoder in float64, from just their receptive field. (Not with a half-precision encoder, whose
    rounding changes many units.)

    Args:
        model: is copied. Quantizer and decoder stay in float32.
        dtype: of the encoder.
    """

    _DISTURBANCE = 2e-5  # of the largest latent: ten times the largest rounding error seen, thirty times the typical

    def __init__(self, model: SpeechModel, dtype: torch.dtype = torch.float32):
        nn.Module.__init__(self)
        copied = copy.deepcopy(model)
        self.config = copied.config
        self.n_mels = copied.n_mels
        self.quantizer = copied.quantizer
        self.encoder = InferenceEncoder(model.encoder, dtype)  # type: ignore[assignment]
        self.exact: InferenceEncoder | None = None
        if dtype == torch.float32 and next(model.parameters()).device.type != "mps":  # which has no float64
            self.exact = InferenceEncoder(model.encoder, torch.float64)
        self.jitter = copied.jitter
        self.decoder = copied.decoder
        self.likelihood = copied.likelihood
        self.eval().requires_grad_(False)

    def choose(
        self, z: Tensor, log_var: Tensor | None, mel: Tensor, lengths: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """See :meth:`SpeechModel.choose`.

        ``mel`` may be a stretch of a longer one, from an even frame on, that holds all that the units need.
        """
        if self.exact is None or not z.numel():
            return self.quantizer.encode(z, log_var)
        # in float64, so that latents alone decide, and not also the order in which their logits are summed
        indices = self.quantizer.encode(z.double(), None if log_var is None else log_var.double())
        doubtful = self._changes(indices, z, log_var)
        if lengths is not None:
            doubtful &= length_mask(self.num_units(lengths) - first, z.shape[1])
        before, after = InferenceEncoder.receptive_frames
        for row, position in doubtful.nonzero().tolist():
            frames = mel.shape[2] if lengths is None else int(lengths[row])
            unit = first + position
            start, stop = max(0, 2 * unit + before), min(frames - frames % 2, 2 * unit + after + 1)
            head = self.exact(mel[row : row + 1, :, start:stop])[:, unit - start // 2, None]
            indices[row, position] = self.quantizer.encode(*self.split_head(head))[0, 0]
        return indices

    def _changes(self, indices: Tensor, z: Tensor, log_var: Tensor | None) -> Tensor:
        """(B, U) bool, whether a disturbance of the latents changes a code."""
        changes = torch.zeros(z.shape[:-1], dtype=torch.bool, device=z.device)
        generator = torch.Generator().manual_seed(0)

        def noise_for(values: Tensor) -> Tensor:
            noise = torch.randn(values.shape[1:], generator=generator).to(values)
            return noise * (self._DISTURBANCE * values.abs().amax())

        # To both sides: what lies closer to a border than a disturbance is wide, one of the two carries over it.
        for _ in range(2):
            of_z, of_log_var = noise_for(z), None if log_var is None else noise_for(log_var)
            for sign in (-1.0, 1.0):
                moved = self.quantizer.encode(
                    z + sign * of_z, None if log_var is None or of_log_var is None else log_var + sign * of_log_var
                )
                changes |= (moved != indices).flatten(2).any(-1) if moved.dim() == 3 else moved != indices
        return changes


def for_inference(model: SpeechModel, dtype: torch.dtype = torch.float32) -> InferenceModel:
    """A copy of ``model`` to encode with."""
    return InferenceModel(model, dtype)


@dataclass(frozen=True)
class UnitTiming:
    """Which samples of a wav at ``mel_spec.sample_rate`` a unit is about.

    Unit u stands for two mel frames, and is computed from sixteen. Its *nominal span* is one hop around the middle of
    each of its two frames: nominal spans follow one another without gaps. Its *receptive field* is every sample that
    can change it. With a spec that has ``peak`` or ``dynamic_range``, every unit also depends on two numbers of the
    whole utterance, see :class:`sqvae_speech.audio.stream.Level`.

    No span covers what lies before unit 0's (the first frame is lost to the first convolution) and after the last
    unit's (the last frame, or two).
    """

    mel_spec: MelSpec

    @property
    def frame_rate(self) -> float:
        """Units a second."""
        return self.mel_spec.frame_rate / SpeechModel.frames_per_unit

    def span(self, unit: int) -> tuple[int, int]:
        """The first sample of a unit's nominal span, and the one after its last."""
        spec = self.mel_spec
        frame = SpeechModel.frames_per_unit * unit + SpeechModel.first_frame
        middle = frame * spec.hop_length + spec.window_start + spec.win_length // 2
        start = middle - spec.hop_length // 2
        return start, start + SpeechModel.frames_per_unit * spec.hop_length

    def receptive_field(self, unit: int) -> tuple[int, int]:
        """The first sample of a unit's receptive field, and the one after its last.

        Near the wav's beginning the first is negative, and near its end the second lies beyond it: no more is there.
        """
        spec = self.mel_spec
        first, last = (SpeechModel.frames_per_unit * unit + frame for frame in ConvEncoder.receptive_frames)
        # the window is 0 at its first sample, and pre-emphasis adds the one before
        start = first * spec.hop_length + spec.window_start + (0 if spec.preemphasis else 1)
        return start, last * spec.hop_length + spec.window_start + spec.win_length

    @property
    def latency(self) -> int:
        """Samples after the end of a unit's nominal span that it takes until a stream can tell the unit."""
        unit = 1_000  # far from the beginning
        frame = SpeechModel.frames_per_unit * unit + ConvEncoder.receptive_frames[1]
        return samples_of_frames(self.mel_spec, frame + 1) - self.span(unit)[1]
