"""Parts of the networks: convolutional encoder, time jitter, recurrent decoder.

The published speech network (sony/sqvae, after van Niekerk et al., arXiv 2005.09409). Convolutions over time are
written as 2-D ones of height 1 in channels-last memory: oneDNN and cuDNN run these faster than 1-D convolutions, and
the latents come out channels last without a copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sqvae_speech.models import native
from sqvae_speech.models.normalization import BatchNorm2d
from sqvae_speech.models.recurrence import input_weights, run_layers
from sqvae_speech.models.winograd import convolve


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) int64 lengths -> (B, size) bool, True at the first ``length`` positions."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class ConvBlock(nn.Sequential):
    """A convolution, batch normalisation if it has one, ReLU."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x`` (B, C, 1, T); ``mask`` bool (B, 1, 1, T) of the outputs, True = real, zeroed beyond; None for all."""
        conv, *norm, relu = self
        assert isinstance(conv, nn.Conv2d)
        x = convolve(conv, x)
        if norm:
            assert isinstance(norm[0], BatchNorm2d)
            return norm[0].rectified(x, mask)
        x = relu(x)
        return x if mask is None else x.masked_fill(~mask, 0.0)


class ConvEncoder(nn.Module):
    """Log-mel frames to latents at half their rate.

    Five convolutions, each with batch normalisation and ReLU, then a 1x1 convolution: k3 without padding (so a
    frame is lost at either end), k3, k4 with stride 2, k3, k3. Unit u is computed from the mel frames 2u - 6 to
    2u + 9 (16 frames, its receptive field), centred between frames 2u + 1 and 2u + 2.

    Args:
        in_channels: n_mels.
        channels: width.
        out_channels: of the head.

    Attributes:
        receptive_frames: first and last mel frame, less 2u, that unit u is computed from.
    """

    receptive_frames = (-6, 9)

    def __init__(self, in_channels: int, channels: int, out_channels: int):
        super().__init__()

        def block(inputs: int, kernel: int, stride: int, padding: int) -> ConvBlock:
            conv = nn.Conv2d(inputs, channels, (1, kernel), (1, stride), (0, padding), bias=False)
            return ConvBlock(conv, BatchNorm2d(channels), nn.ReLU(inplace=True))

        self.blocks = nn.ModuleList(
            [
                block(in_channels, 3, 1, 0),
                block(channels, 3, 1, 1),
                block(channels, 4, 2, 1),
                block(channels, 3, 1, 1),
                block(channels, 3, 1, 1),
            ]
        )
        self.head = nn.Conv2d(channels, out_channels, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def num_units(num_frames):
        """Units of so many frames (an int or an int64 tensor): ``(frames - 2) // 2``."""
        return (num_frames - 2) // 2

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            mel: (B, n_mels, T) float32.
            lengths: (B,) int64 real frames; the rest is padding of any content. Each example's latents are then
                what they would be alone: frames beyond its end are zeroed after every ReLU, and no statistics count
                them.

        Returns:
            (B, (T - 2) // 2, out_channels).
        """
        # with an odd number of frames the last one has no partner; it must not leak into the last unit
        usable = mel.shape[-1] - mel.shape[-1] % 2
        x = mel[..., :usable].unsqueeze(2).contiguous(memory_format=torch.channels_last)
        masks: list[Tensor | None] = [None] * 5
        if lengths is not None:
            even = lengths - lengths % 2
            x = x.masked_fill(~length_mask(even, usable)[:, None, None], 0.0)
            wide = length_mask(even - 2, usable - 2)[:, None, None]
            narrow = length_mask(self.num_units(even), self.num_units(usable))[:, None, None]
            masks = [wide, wide, narrow, narrow, narrow]
        for block, mask in zip(self.blocks, masks, strict=True):
            x = block(x, mask)
        return self.head(x).squeeze(2).transpose(1, 2)


class TimeJitter(nn.Module):
    """Replaces each position by its left or right neighbour with probability p/2 each, in training only.

    Chorowski et al., arXiv 1901.08810. The first position has no left neighbour and the last no right one: there
    the draw that would leave the sequence keeps the position.

    Raises:
        ValueError: a probability outside [0, 1].
    """

    def __init__(self, probability: float):
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"jitter must be a probability in [0, 1], got {probability}")
        self.probability = probability

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); with ``lengths`` (B,) nothing is taken from beyond an example's end."""
        if not self.training or self.probability == 0:
            return x
        batch_size, size, dim = x.shape
        draw = torch.rand(batch_size, size, device=x.device)
        half = self.probability / 2
        step = (draw >= 1 - half).long() - (draw < half).long()
        source = torch.arange(size, device=x.device) + step
        last = torch.full((batch_size, 1), size - 1, device=x.device) if lengths is None else lengths[:, None] - 1
        source = source.clamp(min=0).minimum(last.clamp(min=0))
        return x.gather(1, source[..., None].expand(-1, -1, dim))


class RecurrentDecoder(nn.Module):
    """Quantized latents and a speaker to log-mel frames at twice the rate: a 2-layer bidirectional GRU.

    Args:
        dim: of the latents.
        speaker_embedding: of a batch of speakers, (B, speaker_dim), put beside every latent; a number makes a table
            of so many.
        speaker_dim: see there.
        hidden: GRU width of one direction.
        n_mels: of the output.
    """

    def __init__(self, dim: int, speaker_embedding: nn.Module | int, speaker_dim: int, hidden: int, n_mels: int):
        super().__init__()
        if isinstance(speaker_embedding, int):
            speaker_embedding = nn.Embedding(speaker_embedding, speaker_dim)
        self.speaker_embedding = speaker_embedding
        self.rnn = nn.GRU(dim + speaker_dim, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.output = nn.Linear(2 * hidden, n_mels)

    # the recurrence is one kernel already, of cuDNN or of network.cpp; a compiler would take it apart step by step
    @torch.compiler.disable
    def forward(self, quantized: Tensor, speaker: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            quantized: (B, U, D).
            speaker: (B,) int64, or what else ``speaker_embedding`` takes.
            lengths: (B,) int64 real units. Packed, so that the backward direction starts at each example's end.

        Returns:
            (B, n_mels, 2U), zero beyond an example's end.
        """
        if self.training and native.usable(quantized):
            return self._decode_natively(quantized, speaker, lengths)
        x = quantized.repeat_interleave(2, dim=1)
        identity = self.speaker_embedding(speaker)[:, None].expand(-1, x.shape[1], -1)
        x = torch.cat((x, identity), dim=-1)
        if lengths is None:
            return self.output(self.rnn(x)[0]).transpose(1, 2)
        frames = 2 * lengths
        packed = pack_padded_sequence(x, frames.cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        mel = self.output(hidden).transpose(1, 2)
        return mel.masked_fill(~length_mask(frames, x.shape[1])[:, None], 0.0)

    def _decode_natively(self, quantized: Tensor, speaker: Tensor, lengths: Tensor | None) -> Tensor:
        # what a unit, and what a speaker, gives the first layer's gates is computed once for all frames
        weight, bias = input_weights(self.rnn, 0)
        dim = quantized.shape[-1]
        units = F.linear(quantized.transpose(0, 1), weight[:, :dim])
        gates = units + F.linear(self.speaker_embedding(speaker), weight[:, dim:], bias)
        frames = None if lengths is None else 2 * lengths
        hidden = run_layers(self.rnn, gates.repeat_interleave(2, dim=0), frames)
        mel = self.output(hidden).permute(1, 2, 0)
        return mel if frames is None else mel.masked_fill(~length_mask(frames, mel.shape[-1])[:, None], 0.0)
