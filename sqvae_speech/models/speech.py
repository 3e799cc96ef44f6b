"""The speech model: encoder, quantizer, speaker-conditioned decoder, likelihood."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sqvae_speech.models.decoders import DECODERS, SPEAKERS, ConvolutionalDecoder, SpeakerVectors
from sqvae_speech.models.heads import log_var_for
from sqvae_speech.models.invariance import InvarianceConfig, SpeakerAdversary, posterior_divergence
from sqvae_speech.models.likelihoods import build_likelihood
from sqvae_speech.models.modules import ConvEncoder, RecurrentDecoder, TimeJitter, length_mask
from sqvae_speech.models.perturbation import SpectralPerturbation
from sqvae_speech.quantization import QuantizerConfig, QuantizerOutput, build_quantizer
from sqvae_speech.quantization.stochastic import StochasticQuantizer


@dataclass(frozen=True)
class SpeechModelConfig:
    """Sizes of the published network, and its quantizer.

    Attributes:
        channels: width of the convolutions (768 in the paper's code).
        speaker_dim: of the speaker embedding.
        decoder_hidden: GRU width of one direction.
        jitter: probability of the time jitter.
        likelihood: ``arelbo``, ``gaussian`` (trainable variance) or ``fixed``.
        likelihood_variance: where the variance of the last two starts (and stays).
        quantizer: which quantizer.
        invariance: what keeps the speaker out of the units, in training; nothing by default.
        speaker: how the decoder is told whose voice it is: ``table``, an embedding of the speakers in training, or
            ``vector``, a projection of vectors that another model made (any voice; ``data.speaker_vectors``).
        speaker_vector_dim: of these vectors.
        decoder: ``recurrent``, the published one, or ``convolutional``, ConvNeXt blocks over all frames at once.
        decoder_channels: width of the convolutional decoder.
        decoder_blocks: of it.
        f0_condition: it is told F0 too, where that is known (``data.f0``).
    """

    channels: int = 768
    speaker_dim: int = 64
    decoder_hidden: int = 128
    jitter: float = 0.5
    likelihood: str = "arelbo"
    likelihood_variance: float = 0.1
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    invariance: InvarianceConfig = field(default_factory=InvarianceConfig)
    speaker: str = "table"
    speaker_vector_dim: int = 192
    decoder: str = "recurrent"
    decoder_channels: int = 256
    decoder_blocks: int = 6
    f0_condition: bool = False

    def __post_init__(self) -> None:
        for name, legal in (("speaker", SPEAKERS), ("decoder", DECODERS)):
            if getattr(self, name) not in legal:
                raise ValueError(f"model.{name} must be one of {', '.join(legal)}, got {getattr(self, name)!r}")
        for name in ("speaker_vector_dim", "decoder_channels", "decoder_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.f0_condition and self.decoder == "recurrent":
            raise ValueError(
                "model.f0_condition is for model.decoder convolutional; the recurrent one is as published"
            )
        if self.invariance.adversary and self.speaker != "table":
            raise ValueError(
                f"model.invariance.adversary tells the speakers of a table apart, but model.speaker is "
                f"{self.speaker!r}; set one of them back (adversary 0, or speaker table)"
            )


class SpeechOutput(NamedTuple):
    """Of a training or validation pass.

    Attributes:
        loss: scalar, reconstruction plus latent loss plus those of ``invariance``, nats per example.
        reconstruction_loss: scalar.
        mse: detached mean squared error of the normalised log-mel over the real values of the global batch.
        quantization: the quantizer's output.
        reconstruction: (B, n_mels, 2U).
        target: (B, n_mels, 2U), the input less a frame at each end.
        mask: (B, U) bool, the real units, or None when all are.
        invariance: detached; what ``consistency`` and ``adversary`` gave, in training where they are on.
    """

    loss: Tensor
    reconstruction_loss: Tensor
    mse: Tensor
    quantization: QuantizerOutput
    reconstruction: Tensor
    target: Tensor
    mask: Tensor | None
    invariance: dict[str, Tensor]


class Units(NamedTuple):
    """Of a batch of utterances.

    Attributes:
        indices: (B, U) int64, (B, U, N) with N codebooks (residual or grouped quantization); zero beyond an
            utterance's end.
        lengths: (B,) int64.
    """

    indices: Tensor
    lengths: Tensor

    @property
    def codes(self) -> Tensor:
        """(B, N, U) int64, however many codebooks there are."""
        return self.indices[:, None] if self.indices.dim() == 2 else self.indices.transpose(1, 2)


class SpeechModel(nn.Module):
    """Quantized autoencoder of log-mel frames, one unit every two frames.

    Args:
        config: sizes and quantizer.
        n_mels: of the input.
        num_speakers: that the decoder can speak as.

    Raises:
        ValueError: a setting that is out of range.
    """

    frames_per_unit = 2
    first_frame = 1  # the mel frame that unit 0's first output frame stands for

    def __init__(self, config: SpeechModelConfig, n_mels: int, num_speakers: int):
        super().__init__()
        self.config = config
        self.n_mels = n_mels
        self.quantizer = build_quantizer(config.quantizer)
        dim = config.quantizer.dim
        self.encoder = ConvEncoder(n_mels, config.channels, dim + self.quantizer.log_var_channels)
        self.jitter = TimeJitter(config.jitter)
        self.decoder = _build_decoder(config, n_mels, num_speakers)
        self.likelihood = build_likelihood(config.likelihood, config.likelihood_variance)
        # after all others, whose weights are then drawn as without
        invariance = config.invariance
        self.perturbation = SpectralPerturbation(invariance.warp, invariance.equalizer, invariance.noise)
        if invariance.consistency and not isinstance(self.quantizer, StochasticQuantizer):
            raise ValueError(
                f"invariance.consistency compares posteriors, and {self.quantizer.describe()} has none with a "
                "gradient; it is for kinds gaussian and vmf with one codebook"
            )
        self.adversary = SpeakerAdversary(dim, num_speakers, invariance.adversary) if invariance.adversary else None

    @property
    def codebook_size(self) -> int:
        return self.config.quantizer.codebook_size

    @property
    def num_codebooks(self) -> int:
        """How many codes a unit has."""
        return self.quantizer.num_codebooks

    def num_units(self, num_frames):
        """Units of so many mel frames: an int or an int64 tensor."""
        return self.encoder.num_units(num_frames)

    def forward(
        self,
        mel: Tensor,
        speaker: Tensor,
        lengths: Tensor | None = None,
        *,
        f0: Tensor | None = None,
        temperature: float = 1.0,
        sample: bool | None = None,
    ) -> SpeechOutput:
        """Encode, quantize, decode and score a batch.

        Args:
            mel: (B, n_mels, T) float32.
            speaker: (B,) int64; or (B, V) floating point for a model that is told voices by vectors.
            lengths: (B,) int64 real frames; None when all are.
            f0: (B, T, 2) of :func:`~sqvae_speech.audio.pitch_features.pitch_features`, for a model with
                ``f0_condition``; None for unknown.
            temperature: of the quantizer's relaxation.
            sample: see :class:`sqvae_speech.quantization.Quantizer`.
        """
        z, log_var, unit_lengths = self._encode(self.perturbation(mel, lengths), lengths)
        mask = None if unit_lengths is None else length_mask(unit_lengths, z.shape[1])
        invariance = self._invariance(mel, speaker, lengths, z, log_var, mask) if self.training else {}
        quantization = self.quantizer(z, log_var, temperature=temperature, mask=mask, sample=sample)
        latents = self.jitter(quantization.quantized, unit_lengths)
        target = self.target(mel)
        # of the frames that are reconstructed
        pitch = () if f0 is None else (f0[:, self.first_frame : self.first_frame + target.shape[-1]],)
        reconstruction = self.decoder(latents, speaker, unit_lengths, *pitch)
        frame_mask = None if mask is None else mask.repeat_interleave(2, dim=1)[:, None]
        score = self.likelihood(reconstruction, target, frame_mask)
        return SpeechOutput(
            # the quantizer's mean is over this process' examples, of which others may have more or fewer
            loss=score.loss + score.share * (quantization.loss + sum(invariance.values())),
            reconstruction_loss=score.loss.detach(),
            mse=score.metrics["mse"],
            quantization=quantization,
            reconstruction=reconstruction,
            target=target,
            mask=mask,
            invariance={name: value.detach() for name, value in invariance.items()},
        )

    def _invariance(
        self,
        mel: Tensor,
        speaker: Tensor,
        lengths: Tensor | None,
        z: Tensor,
        log_var: Tensor | None,
        mask: Tensor | None,
    ) -> dict[str, Tensor]:
        """Weighted losses of latents ``z`` that keep the speaker out of them, those that are on, nats per example."""
        losses = {}
        if self.config.invariance.consistency:
            assert isinstance(self.quantizer, StochasticQuantizer)
            other = self._encode(self.perturbation(mel, lengths), lengths)[:2]
            posteriors = self.quantizer.log_posterior(z, log_var), self.quantizer.log_posterior(*other)
            losses["consistency"] = self.config.invariance.consistency * posterior_divergence(*posteriors, mask)
        if self.adversary is not None:
            losses["adversary"] = self.adversary(z, speaker, mask)
        return losses

    def target(self, mel: Tensor) -> Tensor:
        """The frames that the model reconstructs: (B, n_mels, T) -> (B, n_mels, 2U), a frame less at each end."""
        return mel[..., 1 : 1 + 2 * self.num_units(mel.shape[-1])]

    def latents(self, mel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Latents (B, U, D) and the head's log-variance, or None without a head."""
        return self._encode(mel, lengths)[:2]

    @torch.no_grad()
    def encode(self, mel: Tensor, lengths: Tensor | None = None) -> Units:
        """Units of log-mel frames: (B, n_mels, T) -> ``Units``. Deterministic; batch equals single in eval mode."""
        z, log_var, unit_lengths = self._encode(mel, lengths)
        indices = self.choose(z, log_var, mel, lengths)
        if unit_lengths is None:
            return Units(indices, torch.full((len(mel),), z.shape[1], device=mel.device))
        mask = length_mask(unit_lengths, z.shape[1])
        return Units(indices.masked_fill(~mask.view(*mask.shape, *(1,) * (indices.dim() - 2)), 0), unit_lengths)

    def choose(
        self, z: Tensor, log_var: Tensor | None, mel: Tensor, lengths: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """The most probable codes of latents (B, U, D): (B, U) int64, or (B, U, N).

        Args:
            z: latents.
            log_var: the head's log-variance.
            mel: (B, n_mels, T) that they were computed from, for a model that looks twice.
            lengths: (B,) real frames of it.
            first: the unit of ``mel`` that the latents begin with.
        """
        return self.quantizer.encode(z, log_var)

    @torch.no_grad()
    def posterior(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``q(k | z)`` of every unit: (B, n_mels, T) -> (B, U, K), or (B, U, N, K) with N codebooks."""
        return self.quantizer.posterior(*self.latents(mel, lengths))

    @torch.no_grad()
    def decode(
        self, indices: Tensor, speaker: Tensor, lengths: Tensor | None = None, f0: Tensor | None = None
    ) -> Tensor:
        """Log-mel of units in a speaker's voice.

        Args:
            indices: (B, U) int64; (B, U, n) of several codebooks, of which a residual quantizer takes the first n.
            speaker: see ``forward``.
            lengths: (B,) int64 real units; None when all are.
            f0: (B, 2U, 2), see ``forward``, of the frames that the units stand for.

        Returns:
            (B, n_mels, 2U).
        """
        pitch = () if f0 is None else (f0,)
        return self.decoder(self.quantizer.decode(indices), speaker, lengths, *pitch)

    @torch.no_grad()
    def reconstruct(
        self, mel: Tensor, speaker: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode and decode: reconstruction and target (B, n_mels, 2U), and unit lengths (B,)."""
        units = self.encode(mel, lengths)
        decode_lengths = None if lengths is None else units.lengths
        return self.decode(units.indices, speaker, decode_lengths), self.target(mel), units.lengths

    def _encode(self, mel: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Latents, log-variance and unit lengths."""
        if mel.dim() != 3 or mel.shape[1] != self.n_mels:
            raise ValueError(f"mel must be (B, {self.n_mels}, T), got {tuple(mel.shape)}")
        if mel.shape[-1] < 4:
            raise ValueError(f"the shortest mel that gives a unit has 4 frames, got {mel.shape[-1]}")
        unit_lengths = None if lengths is None else self.num_units(lengths)
        z, log_var = self.split_head(self.encoder(mel, lengths), unit_lengths)
        return z, log_var, unit_lengths

    def split_head(self, head: Tensor, unit_lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the encoder gives, (B, U, dim + log_var channels), as latents and log-variance for the quantizer."""
        dim = self.config.quantizer.dim
        mask = None if unit_lengths is None else length_mask(unit_lengths, head.shape[1])
        return head[..., :dim], log_var_for(self.quantizer, head[..., dim:], mask)


def _build_decoder(config: SpeechModelConfig, n_mels: int, num_speakers: int) -> nn.Module:
    voices: nn.Module
    if config.speaker == "vector":
        voices = SpeakerVectors(num_speakers, config.speaker_vector_dim, config.speaker_dim)
    else:
        voices = nn.Embedding(num_speakers, config.speaker_dim)
    dim = config.quantizer.dim
    if config.decoder == "convolutional":
        return ConvolutionalDecoder(
            dim,
            voices,
            config.speaker_dim,
            config.decoder_channels,
            config.decoder_blocks,
            n_mels,
            f0_condition=config.f0_condition,
        )
    return RecurrentDecoder(dim, voices, config.speaker_dim, config.decoder_hidden, n_mels)
