"""Configuration of a training run of a unit language model."""

from dataclasses import dataclass, field

from sqvae_speech.models.unit_lm import UnitLmConfig
from sqvae_speech.training.config import TransformerTrainingConfig

CONDITIONS = ("none", "speaker")


@dataclass(frozen=True)
class UnitDataConfig:
    """What to train on.

    Attributes:
        train: a unit store (``.parquet``) of ``sqvae-speech encode``. Its units are modelled as they are stored:
            runs without their durations, when it is deduplicated.
        valid: the same of validation, or None for no validation.
        condition: what the model is told of a sequence, ``none`` or ``speaker`` (the class, of an image): the names
            in the training store. A model that was told can do without.
    """

    train: str = ""
    valid: str | None = None
    condition: str = "none"

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"data.condition must be one of {', '.join(CONDITIONS)}, got {self.condition!r}")


@dataclass(frozen=True)
class UnitLmTrainingConfig(TransformerTrainingConfig):
    """How to train; a step has ``batch_size`` blocks of ``model.context`` units."""


@dataclass(frozen=True)
class UnitLmTrainConfig:
    """A whole run: data, model, training."""

    task: str = "unit_lm"
    data: UnitDataConfig = field(default_factory=UnitDataConfig)
    model: UnitLmConfig = field(default_factory=UnitLmConfig)
    training: UnitLmTrainingConfig = field(default_factory=UnitLmTrainingConfig)
