"""Configuration of a training run of a text-to-units model."""

from dataclasses import dataclass, field

from sqvae_speech.data.texts import KINDS
from sqvae_speech.models.text_to_units import TextToUnitsConfig
from sqvae_speech.training.config import TransformerTrainingConfig
from sqvae_speech.training.unit_lm_config import CONDITIONS


@dataclass(frozen=True)
class SpokenTextConfig:
    """What to train on.

    Attributes:
        train: a unit store (``.parquet``) of ``sqvae-speech encode``, with texts. Deduplicated if it is not.
        valid: the same of validation, or None for no validation.
        text: what the model reads, ``characters`` or ``phones`` (of espeak-ng; the package ``espeakng-loader``).
        language: that espeak-ng reads texts in.
        condition: what the model is told besides, ``none`` or ``speaker``.
    """

    train: str = ""
    valid: str | None = None
    text: str = "characters"
    language: str = "en-us"
    condition: str = "speaker"

    def __post_init__(self) -> None:
        for name, legal in (("text", KINDS), ("condition", CONDITIONS)):
            if getattr(self, name) not in legal:
                raise ValueError(f"data.{name} must be one of {', '.join(legal)}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class TextToUnitsTrainingConfig(TransformerTrainingConfig):
    """How to train; a step has ``batch_size`` utterances."""


@dataclass(frozen=True)
class TextToUnitsTrainConfig:
    """A whole run: data, model, training."""

    task: str = "text_to_units"
    data: SpokenTextConfig = field(default_factory=SpokenTextConfig)
    model: TextToUnitsConfig = field(default_factory=TextToUnitsConfig)
    training: TextToUnitsTrainingConfig = field(default_factory=TextToUnitsTrainingConfig)
