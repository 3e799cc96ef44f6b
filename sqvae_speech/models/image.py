"""The image model: residual encoder, quantizer, decoder, likelihood of pixel values or of labels."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqvae_speech.images.spec import ImageSpec
from sqvae_speech.models.heads import log_var_for
from sqvae_speech.models.image_networks import LAYOUTS, ImageDecoder, ImageEncoder, initialize
from sqvae_speech.models.label_likelihoods import LABEL_LIKELIHOODS, LabelLikelihood, build_label_likelihood
from sqvae_speech.models.likelihoods import build_likelihood
from sqvae_speech.quantization import QuantizerConfig, QuantizerOutput, build_quantizer

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "none": nn.Identity}


@dataclass(frozen=True)
class ImageModelConfig:
    """Which network, and its quantizer.

    Attributes:
        network: ``28x28``, ``32x32``, ``64x64`` or ``label_map``: the published ones, each for any size of image that
            its downsampling (4, for label maps 8) divides.
        num_blocks: residual blocks of the encoder.
        activation: of the decoder's output: ``sigmoid`` for pixel values, ``softplus`` for a vMF likelihood (as
            published), ``none`` for a categorical one.
        likelihood: of pixel values ``arelbo``, ``gaussian`` (trainable variance) or ``fixed``; of labels ``vmf`` or
            ``categorical``.
        likelihood_variance: where the variance of ``gaussian`` starts, and that of ``fixed`` stays.
        likelihood_kappa: where the concentration of ``vmf`` starts.
        quantizer: which quantizer; its ``dim`` is the network's width.
    """

    network: str = "32x32"
    num_blocks: int = 2
    activation: str = "sigmoid"
    likelihood: str = "arelbo"
    likelihood_variance: float = 0.1
    likelihood_kappa: float = 100.0
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        for name, legal in (("network", LAYOUTS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in legal:
                raise ValueError(f"model.{name} must be one of {', '.join(legal)}, got {getattr(self, name)!r}")
        if self.num_blocks < 1:
            raise ValueError(f"model.num_blocks must be at least 1, got {self.num_blocks}")


class ImageOutput(NamedTuple):
    """Of a training or validation pass.

    Attributes:
        loss: scalar, reconstruction plus latent loss, nats per example.
        reconstruction_loss: scalar.
        metrics: detached scalars of the global batch: ``mse`` of pixel values, ``accuracy`` of labels.
        quantization: the quantizer's output; indices (B, H', W'), or (B, H', W', N).
        reconstruction: (B, C, H, W) in [0, 1]; of label maps scores (B, F, H, W), F at least the number of classes.
        target: (B, C, H, W) float32 in [0, 1]; of label maps (B, H, W) int64.
    """

    loss: Tensor
    reconstruction_loss: Tensor
    metrics: dict[str, Tensor]
    quantization: QuantizerOutput
    reconstruction: Tensor
    target: Tensor


class ImageModel(nn.Module):
    """Quantized autoencoder of images, or of label maps.

    Images are (B, C, H, W), uint8 in [0, 255] or float in [0, 1]; label maps (B, H, W) of any integer type.

    Args:
        config: network and quantizer.
        spec: of the images.

    Raises:
        ValueError: a setting that is out of range or does not suit the images.
    """

    def __init__(self, config: ImageModelConfig, spec: ImageSpec):
        super().__init__()
        self.config = config
        self.spec = spec
        layout = LAYOUTS[config.network]
        if spec.height % layout.downsampling or spec.width % layout.downsampling:
            raise ValueError(
                f"network {config.network!r} takes sizes that are multiples of {layout.downsampling}, "
                f"got {spec.height} x {spec.width}: prepare the images in another size"
            )
        if config.quantizer.dim < 2:
            raise ValueError("quantizer.dim must be at least 2, the first layer has half as many, got 1")
        if spec.is_labels != (config.likelihood in LABEL_LIKELIHOODS):
            legal = ", ".join(LABEL_LIKELIHOODS) if spec.is_labels else "arelbo, gaussian, fixed"
            raise ValueError(f"likelihood must be one of {legal} for {spec.describe()}, got {config.likelihood!r}")
        self.latent_shape = (spec.height // layout.downsampling, spec.width // layout.downsampling)
        self.quantizer = build_quantizer(config.quantizer)
        self.likelihood: nn.Module
        channels = spec.channels
        if spec.is_labels:
            labels = build_label_likelihood(config.likelihood, spec.num_classes, config.likelihood_kappa)
            self.likelihood, channels = labels, labels.channels
        else:
            self.likelihood = build_likelihood(config.likelihood, config.likelihood_variance)
        self.channels = channels
        dim, head = config.quantizer.dim, self.quantizer.log_var_channels > 0
        self.encoder = ImageEncoder(layout, channels, dim, config.num_blocks, head)
        self.decoder = ImageDecoder(layout, channels, dim, config.num_blocks, ACTIVATIONS[config.activation]())
        initialize(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def codebook_size(self) -> int:
        return self.config.quantizer.codebook_size

    @property
    def num_codebooks(self) -> int:
        """How many codes a position has."""
        return self.quantizer.num_codebooks

    def forward(self, images: Tensor, *, temperature: float = 1.0, sample: bool | None = None) -> ImageOutput:
        """Encode, quantize, decode and score a batch.

        Args:
            images: see the class.
            temperature: of the quantizer's relaxation.
            sample: see :class:`sqvae_speech.quantization.Quantizer`.
        """
        target = self.target(images)
        quantization = self.quantizer(*self._encode(target), temperature=temperature, sample=sample)
        reconstruction = self.decoder(quantization.quantized)
        score = self.likelihood(reconstruction, target)
        return ImageOutput(
            # the quantizer's mean is over this process' examples, of which others may have more or fewer
            loss=score.loss + score.share * quantization.loss,
            reconstruction_loss=score.loss.detach(),
            metrics=score.metrics,
            quantization=quantization,
            reconstruction=reconstruction,
            target=target,
        )

    def target(self, images: Tensor) -> Tensor:
        """What the model reconstructs: (B, C, H, W) float32 in [0, 1], of label maps (B, H, W) int64.

        Raises:
            ValueError: images of another shape.
        """
        if tuple(images.shape[1:]) != self.spec.shape:
            expected = ", ".join(map(str, self.spec.shape))
            raise ValueError(f"expected (B, {expected}), {self.spec.describe()}, got {tuple(images.shape)}")
        if self.spec.is_labels:
            return images.long()
        return images.float() / 255.0 if images.dtype == torch.uint8 else images

    def latents(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents (B, H', W', D), and the log-variance for the quantizer or None."""
        return self._encode(self.target(images))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The codes of images: (B, H', W') int64, (B, H', W', N) with N codebooks. Deterministic."""
        return self.quantizer.encode(*self.latents(images))

    @torch.no_grad()
    def posterior(self, images: Tensor) -> Tensor:
        """``q(k | z)`` at every position, (B, H', W', K), or (B, H', W', N, K) with N codebooks."""
        return self.quantizer.posterior(*self.latents(images))

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Images of codes.

        Args:
            indices: (B, H', W') int64; (B, H', W', n) of several codebooks, of which a residual quantizer takes the
                first n.

        Returns:
            (B, C, H, W) float32; of label maps (B, H, W) int64.
        """
        return self.pixels(self.decoder(self.quantizer.decode(indices)))

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode, see :meth:`decode`."""
        return self.decode(self.encode(images))

    def pixels(self, reconstruction: Tensor) -> Tensor:
        """What the decoder's output stands for: itself, of label maps the most probable classes (B, H, W) int64."""
        if isinstance(self.likelihood, LabelLikelihood):
            return self.likelihood.predict(reconstruction)
        return reconstruction

    def _encode(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        x = F.one_hot(target, self.channels).permute(0, 3, 1, 2) if self.spec.is_labels else target
        dtype = next(self.encoder.parameters()).dtype
        z, log_var = self.encoder(x.to(dtype).contiguous(memory_format=torch.channels_last))
        return z, None if log_var is None else log_var_for(self.quantizer, log_var)
