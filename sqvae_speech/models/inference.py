"""The network as inference runs it, and which samples a unit is about."""

import contextlib
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.stream import samples_of_frames
from sqvae_speech.models.modules import ConvEncoder
from sqvae_speech.models.speech import SpeechModel


class InferenceEncoder(nn.Module):
    """A trained :class:`ConvEncoder` with its batch normalisations folded into the convolutions.

    Folding is exact but for rounding, and is done in float64. On a GPU convolutions run without TF32, whose error
    would make units depend on the company that an utterance is in.

    Args:
        encoder: is copied.
        dtype: of the convolutions; latents come out in float32.
    """

    num_units = staticmethod(ConvEncoder.num_units)
    receptive_frames = ConvEncoder.receptive_frames

    def __init__(self, encoder: ConvEncoder, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype
        self.encoder = copy.deepcopy(encoder)
        self.encoder.blocks = nn.ModuleList(_folded(block) for block in self.encoder.blocks)  # type: ignore[arg-type]
        self.encoder.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See :meth:`ConvEncoder.forward`; float32 in and out."""
        exact = (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if mel.is_cuda else contextlib.nullcontext()
        )
        with exact:
            return self.encoder(mel.to(self.dtype), lengths).float()


def _without_tf32() -> contextlib.AbstractContextManager:
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _folded(block: nn.Sequential) -> nn.Sequential:
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
    )
    with torch.no_grad():
        folded.weight.copy_(weight)
        folded.bias.copy_(bias)  # type: ignore[union-attr]
    return nn.Sequential(folded, activation)


def for_inference(model: SpeechModel, dtype: torch.dtype = torch.float32) -> SpeechModel:
    """A copy of ``model`` that encodes faster and cannot be trained; quantizer and decoder stay in float32."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    copied.encoder = InferenceEncoder(model.encoder, dtype).requires_grad_(False)  # type: ignore[assignment]
    return copied


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
