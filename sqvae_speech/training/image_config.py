"""Configuration of a training run of the image model."""

from dataclasses import dataclass, field

from sqvae_speech.models.image import ImageModelConfig
from sqvae_speech.training.config import AutoencoderTrainingConfig
from sqvae_speech.training.shards_config import ShardsConfig


@dataclass(frozen=True)
class ImageTrainingConfig(AutoencoderTrainingConfig):
    """How to train an image model. The defaults are the published settings, for CIFAR10: 100 epochs of 40,000 images.

    The published gradients are not clipped, and the learning rate is halved when the loss of four validations, one an
    epoch, has not fallen.
    """

    num_steps: int = 125_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "plateau"
    patience: int = 3
    max_grad_norm: float = 0.0
    valid_interval: int = 1250
    checkpoint_interval: int = 1250
    num_plots: int = 16


@dataclass(frozen=True)
class ImageTrainConfig:
    """A whole run."""

    task: str = "image"
    data: ShardsConfig = field(default_factory=ShardsConfig)
    model: ImageModelConfig = field(default_factory=ImageModelConfig)
    training: ImageTrainingConfig = field(default_factory=ImageTrainingConfig)
