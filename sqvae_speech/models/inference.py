"""The network as inference runs it, and which samples a unit is about."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.audio.stream import samples_of_frames
from sqvae_speech.models.modules import ConvBlock, ConvEncoder, length_mask
from sqvae_speech.models.row_convolution import RowConvolution
from sqvae_speech.models.speech import SpeechModel


class InferenceEncoder(nn.Module):
    """A trained :class:`ConvEncoder` with its batch normalisations folded into the convolutions, as rows of frames.

    Folding is exact but for rounding, and is done in float64. A batch is one sequence, its utterances one after
    another: what a convolution makes across their borders is zeroed, which is the padding that the next one wants, so
    that nothing is computed for padding, whatever the lengths. On a GPU products are made without TF32, whose error
    would make units depend on the company that an utterance is in.

    Args:
        encoder: stays as it is.
        dtype: of the convolutions; latents come out in float32, or in float64.
    """

    num_units = staticmethod(ConvEncoder.num_units)
    receptive_frames = ConvEncoder.receptive_frames
    _FRAMES_AT_ONCE = 4096  # whose values between the layers stay near the CPU

    def __init__(self, encoder: ConvEncoder, dtype: torch.dtype = torch.float32):
        super().__init__()
        device = encoder.head.weight.device
        encoder = copy.deepcopy(encoder).cpu()  # not every device has float64
        # float64 is for few rows at a time; the first convolution has few channels, of which tiles would save little
        tiles = dtype != torch.float64 and device.type == "cpu"
        self.layers = nn.ModuleList(
            RowConvolution(folded(block), tiles=tiles and number > 0).to(device, dtype)
            for number, block in enumerate(encoder.blocks)
        )
        head = RowConvolution(encoder.head.double(), activation=False, tiles=False)
        self.layers.append(head.to(device, dtype))

    @property
    def convolutions(self) -> list[RowConvolution]:
        return [layer for layer in self.layers if isinstance(layer, RowConvolution)]

    @property
    def dtype(self) -> torch.dtype:
        return self.convolutions[0].weight.dtype

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See :meth:`ConvEncoder.forward`; float32 in, and float32 or float64 out, 0 beyond an example's end."""
        frames = [mel.shape[2]] * len(mel) if lengths is None else lengths.tolist()
        heads = self.of_rows([row[:, :count].T for row, count in zip(mel, frames, strict=True)])
        out = heads[0].new_zeros(len(mel), max(0, self.num_units(mel.shape[2])), heads[0].shape[1])
        for row, head in zip(out, heads, strict=True):
            row[: len(head)] = head
        return out

    def of_rows(self, utterances: Sequence[Tensor]) -> list[Tensor]:
        """Frames of utterances, each (F, n_mels) -> their heads, each (u, channels); none of fewer than 4 frames."""
        channels = self.convolutions[-1].out_channels
        nothing = utterances[0].new_zeros(0, channels, dtype=_wide(self.dtype))
        heads = [nothing] * len(utterances)
        group: list[int] = []
        held = 0
        with _without_tf32(nothing.device):
            for number, frames in enumerate(utterances):
                if self.num_units(len(frames)) < 1:
                    continue
                if group and held + len(frames) > self._FRAMES_AT_ONCE:
                    self._encode([utterances[member] for member in group], group, heads)
                    group, held = [], 0
                group.append(number)
                held += len(frames)
            if group:
                self._encode([utterances[member] for member in group], group, heads)
        return heads

    def _encode(self, utterances: Sequence[Tensor], numbers: Sequence[int], heads: list[Tensor]) -> None:
        # with an odd number of frames the last one has no partner; it must not leak into the last unit
        pairs = [len(frames) // 2 for frames in utterances]
        x = torch.cat([frames[: 2 * count] for frames, count in zip(utterances, pairs, strict=True)]).to(self.dtype)
        total = sum(pairs)
        ends = torch.tensor(pairs, device=x.device).cumsum(0)
        # Buffers have a row of zeros before the first frame, or unit. Of every utterance the last two frames, and
        # the last unit, do not exist: they are the zeros between it and the next.
        first, second, third, fourth, fifth, head = self.convolutions
        first_row = ends.new_zeros(1)
        no_frames = torch.cat([first_row, 2 * ends - 1, 2 * ends])
        no_units = torch.cat([first_row, ends])
        channels = first.out_channels
        frames = [x.new_empty(2 * total + 1, channels) for _ in range(2)]
        units = [x.new_empty(total + 1, channels) for _ in range(2)]
        first(x, out=frames[0][1:-2])
        frames[0].index_fill_(0, no_frames, 0.0)
        second(frames[0][:-1], out=frames[1][1:-2])
        frames[1].index_fill_(0, no_frames, 0.0)
        third(frames[1][:-1], out=units[0][1:-1])
        units[0].index_fill_(0, no_units, 0.0)
        fourth(units[0], out=units[1][1:-1])
        units[1].index_fill_(0, no_units, 0.0)
        fifth(units[1], out=units[0][1:-1])
        units[0][-1].zero_()
        values = head(units[0][1:]).to(_wide(self.dtype))
        for number, value in zip(numbers, values.split(pairs), strict=True):
            heads[number] = value[:-1]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Of latents: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextlib.contextmanager
def _without_tf32(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def folded(block: nn.Module) -> nn.Conv2d:
    """The convolution of a block with its normalisation in it, float64."""
    assert isinstance(block, ConvBlock)
    conv, norm, _ = block
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
    convolution = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        device=conv.weight.device,
        dtype=torch.float64,
    )
    with torch.no_grad():
        convolution.weight.copy_(weight)
        convolution.bias.copy_(bias)  # type: ignore[union-attr]
    return convolution


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
        self.perturbation = copied.perturbation
        self.adversary = None
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
        batch, size, _ = z.shape
        if lengths is None:
            real = torch.ones(batch, size, dtype=torch.bool, device=z.device)
        else:
            real = length_mask(self.num_units(lengths) - first, size)
        # each unit an example of its own: nothing is decided for padding
        rows = z[real][:, None]
        row_log_var = None if log_var is None else log_var.expand(batch, size, -1)[real][:, None]
        if self.exact is None or not len(rows):
            chosen = self.quantizer.encode(rows, row_log_var)[:, 0]
        else:
            # in float64, so that latents alone decide, and not also the order in which their logits are summed
            chosen = self.quantizer.encode(rows.double(), None if row_log_var is None else row_log_var.double())
            doubtful = self.changes(chosen, rows, row_log_var)[:, 0]
            chosen = chosen[:, 0]
            if doubtful.any():
                units = real.nonzero()[doubtful]
                units[:, 1] += first
                heads = self._second_look(mel, lengths, units)
                chosen[doubtful] = self.quantizer.encode(*self.split_head(heads))[:, 0]
        indices = chosen.new_zeros(batch, size, *chosen.shape[1:])
        indices[real] = chosen
        return indices

    def _second_look(self, mel: Tensor, lengths: Tensor | None, units: Tensor) -> Tensor:
        """The head in float64 of ``units`` (M, 2), numbers of example and unit, from their receptive fields alone."""
        assert self.exact is not None
        before, after = InferenceEncoder.receptive_frames
        fields, inside = [], []
        for row, unit in units.tolist():
            frames = mel.shape[2] if lengths is None else int(lengths[row])
            start, stop = max(0, 2 * unit + before), min(frames - frames % 2, 2 * unit + after + 1)
            fields.append(mel[row, :, start:stop].T)
            inside.append(unit - start // 2)
        heads = self.exact.of_rows(fields)
        return torch.stack([head[unit, None] for head, unit in zip(heads, inside, strict=True)])

    def changes(self, indices: Tensor, z: Tensor, log_var: Tensor | None) -> Tensor:
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
