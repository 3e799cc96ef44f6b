"""Decoders of the speech model beside the published one, and how a decoder is told whose voice it is to speak with.

Every decoder is a module ``decoder(quantized, speaker, lengths) -> mel`` with the shapes and masks of
:class:`~sqvae_speech.models.modules.RecurrentDecoder`: what an utterance becomes does not depend on its company.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.models.modules import length_mask

DECODERS = ("recurrent", "convolutional")
SPEAKERS = ("table", "vector")
_KERNEL = 7  # frames
_WIDENING = 3
_F0_DROPOUT = 0.2  # how often training hides F0, so that the model can also go without


class SpeakerVectors(nn.Module):
    """Voices by vectors that another model made, such as one that tells speakers apart: also voices never trained.

    Args:
        num_speakers: that have a name, of whom ``vectors`` keeps one each.
        vector_dim: V.
        dim: of what the decoder gets.

    Attributes:
        vectors: (num_speakers, V) float32, a buffer: saved with the weights, not trained.
    """

    vectors: Tensor

    def __init__(self, num_speakers: int, vector_dim: int, dim: int):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_speakers, vector_dim))
        self.projection = nn.Linear(vector_dim, dim)

    def forward(self, speaker: Tensor) -> Tensor:
        """Numbers of speakers (B,) int64, or their vectors (B, V) floating point, normalised first -> (B, dim)."""
        vectors = speaker if speaker.is_floating_point() else self.vectors[speaker]
        return self.projection(F.normalize(vectors.to(self.projection.weight.dtype), dim=-1))


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, layer normalisation, a wide layer, added to what came in (arXiv 2201.03545).

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        # 2-D of height 1 in channels-last memory, as in the encoder
        self.depthwise = nn.Conv2d(channels, channels, (1, _KERNEL), padding=(0, _KERNEL // 2), groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, _WIDENING * channels)
        self.narrow = nn.Linear(_WIDENING * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x`` (B, T, C); ``mask`` (B, T, 1) bool, True = real, or None when all are; nothing sees what is not."""
        real = x if mask is None else x.masked_fill(~mask, 0.0)
        mixed = self.depthwise(real.transpose(1, 2)[:, :, None]).squeeze(2).transpose(1, 2)
        return x + self.scale * self.narrow(F.gelu(self.widen(self.norm(mixed))))


class ConvolutionalDecoder(nn.Module):
    """Quantized latents and a speaker to log-mel frames at twice the rate, all at once: a stack of ConvNeXt blocks.

    Args:
        dim: of the latents.
        speaker_embedding: of a batch of speakers, (B, speaker_dim).
        speaker_dim: see there.
        channels: width.
        num_blocks: each sees three frames to either side.
        n_mels: of the output.
        f0_condition: it can be told F0.
    """

    def __init__(
        self,
        dim: int,
        speaker_embedding: nn.Module,
        speaker_dim: int,
        channels: int,
        num_blocks: int,
        n_mels: int,
        f0_condition: bool = False,
    ):
        super().__init__()
        self.speaker_embedding = speaker_embedding
        self.units = nn.Linear(dim, 2 * channels, bias=False)  # the two frames of a unit, side by side
        self.voice = nn.Linear(speaker_dim, channels)
        # of height, voicing, and whether both are known
        self.pitch = nn.Linear(3, channels, bias=False) if f0_condition else None
        self.blocks = nn.ModuleList(ConvNextBlock(channels) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, n_mels)

    def forward(
        self, quantized: Tensor, speaker: Tensor, lengths: Tensor | None = None, f0: Tensor | None = None
    ) -> Tensor:
        """Decode.

        Args:
            quantized: (B, U, D).
            speaker: (B,) int64, or what else ``speaker_embedding`` takes.
            lengths: (B,) int64 real units.
            f0: (B, 2U, 2) of :func:`~sqvae_speech.audio.pitch_features.pitch_features`; None for unknown.

        Returns:
            (B, n_mels, 2U), zero beyond an example's end.
        """
        x = (
            self.units(quantized).unflatten(2, (2, -1)).flatten(1, 2)
            + self.voice(self.speaker_embedding(speaker))[:, None]
        )
        if self.pitch is not None and f0 is not None:
            known = torch.ones_like(f0[:, :, :1])
            if self.training:
                known = known * (torch.rand(len(f0), 1, 1, device=f0.device) >= _F0_DROPOUT)
            x = x + self.pitch(torch.cat([f0 * known, known], dim=-1).to(x.dtype))
        mask = None if lengths is None else length_mask(2 * lengths, x.shape[1])[..., None]
        for block in self.blocks:
            x = block(x, mask)
        mel = self.output(self.norm(x)).transpose(1, 2)
        return mel if mask is None else mel.masked_fill(~mask.transpose(1, 2), 0.0)
