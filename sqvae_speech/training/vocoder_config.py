"""Configuration of a training run of a vocoder."""

from dataclasses import dataclass, field

from sqvae_speech.models.vocoder_network import VocoderConfig
from sqvae_speech.training.config import TrainingConfig
from sqvae_speech.training.shards_config import ShardsConfig


@dataclass(frozen=True)
class VocoderDataConfig(ShardsConfig):
    """What to train on, see also :class:`ShardsConfig`: mels of shards, and the recordings that they were made from.

    Attributes:
        train_recordings: the data directory that ``train`` was made from.
        valid_recordings: the same of ``valid``.
        allow_pipes: run the commands in their ``wav.scp``.
        segment_frames: mel frames of a crop.
    """

    train_recordings: str = ""
    valid_recordings: str | None = None
    allow_pipes: bool = False
    segment_frames: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("segment_frames", 16)


@dataclass(frozen=True)
class VocoderTrainingConfig(TrainingConfig):
    """How to train; a step has ``batch_size`` crops of ``data.segment_frames``.

    Attributes:
        polar_weight: of what the network says against the recording's own spectrum, which costs little.
        stft_weight: of the distance of the wav's spectra at several resolutions. With this, ``mel_weight`` and
            ``adversarial_weight`` 0 nothing is synthesised in training: a step takes a third of the time.
        mel_weight: of the distance of the wav's log-mel.
        adversarial_weight: of the hinge loss of discriminators; 0 trains without any.
        feature_weight: of the distance of their hidden features.
        adversarial_start: step from which on they take part.
        discriminator_channels: of their hidden layers.
        discriminator_learning_rate: of their Adam, constant.
    """

    num_steps: int = 200_000
    batch_size: int = 16
    learning_rate: float = 5e-4
    schedule: str = "cosine"
    warmup_steps: int = 200
    ema_decay: float = 0.999
    max_grad_norm: float = 10.0
    polar_weight: float = 1.0
    stft_weight: float = 1.0
    mel_weight: float = 1.0
    adversarial_weight: float = 0.0
    feature_weight: float = 1.0
    adversarial_start: int = 0
    discriminator_channels: int = 32
    discriminator_learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "polar_weight",
            "stft_weight",
            "mel_weight",
            "adversarial_weight",
            "feature_weight",
            "adversarial_start",
        ):
            self._at_least(name, 0)
        self._at_least("discriminator_channels", 1)
        self._positive("discriminator_learning_rate")
        if self.adversarial_weight and self.accumulation > 1:
            raise ValueError(
                f"training.accumulation must be 1 with training.adversarial_weight, got {self.accumulation}: "
                "discriminators take a step for each part of a batch"
            )
        if self.adversarial_weight and self.mixed_precision == "fp16":
            raise ValueError(
                "training.mixed_precision must be no or bf16 with training.adversarial_weight, got 'fp16'"
            )


@dataclass(frozen=True)
class VocoderTrainConfig:
    """A whole run: data, model, training."""

    task: str = "vocoder"
    data: VocoderDataConfig = field(default_factory=VocoderDataConfig)
    model: VocoderConfig = field(default_factory=VocoderConfig)
    training: VocoderTrainingConfig = field(default_factory=VocoderTrainingConfig)
