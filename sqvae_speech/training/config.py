"""Configuration of a training run of the speech model."""

from dataclasses import dataclass, field

from sqvae_speech.models.speech import SpeechModelConfig


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Attributes:
        train: folder of training shards (with ``index.json``).
        valid: folder of validation shards, or None for no validation.
        num_workers: loader processes.
        segment_frames: mel frames of a crop. The network eats one at each end: 34 gives 32 frames, 16 units.
    """

    train: str = ""
    valid: str | None = None
    num_workers: int = 0
    segment_frames: int = 34


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults are the published settings; counts are in optimiser steps.

    Attributes:
        num_steps: length of the run.
        batch_size: crops a step, over all processes.
        learning_rate: of Adam.
        milestones: steps at which the learning rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        codebook_lr_multiplier: learning rate of the codebook relative to the rest.
        log_scale_lr_multiplier: the same for the quantizer's trainable scalar (log σ² or log κ). With Adam at rate r
            a scalar moves by about r a step: at 1 it takes 10,000 steps to anneal σ² by a factor of 50.
        codebook_init: ``normal``, or ``data``: codes start at latents of training crops.
        temperature_init: Gumbel-softmax temperature at step 0.
        temperature_decay: τ = init · exp(-decay · step).
        max_grad_norm: gradients are clipped to this norm; 0 turns it off.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        seed: of weights, noise, crops and order.
        log_interval: steps between lines of metrics.
        valid_interval: steps between validations (and plots).
        checkpoint_interval: steps between checkpoints.
        keep_checkpoints: how many of the latest to keep; the best and ``keep_steps`` stay besides.
        keep_steps: steps whose checkpoints are kept, for learning curves.
        num_plots: utterances drawn at each validation, with the codes and the curves so far; 0 draws nothing.
    """

    num_steps: int = 500_000
    batch_size: int = 52
    learning_rate: float = 4e-4
    milestones: tuple[int, ...] = (300_000, 400_000)
    gamma: float = 0.5
    codebook_lr_multiplier: float = 1.0
    log_scale_lr_multiplier: float = 1.0
    codebook_init: str = "normal"
    temperature_init: float = 1.0
    temperature_decay: float = 1e-5
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    seed: int = 0
    log_interval: int = 50
    valid_interval: int = 1000
    checkpoint_interval: int = 1000
    keep_checkpoints: int = 2
    keep_steps: tuple[int, ...] = ()
    num_plots: int = 2

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "log_interval", "valid_interval", "checkpoint_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if self.keep_checkpoints < 1:
            raise ValueError(f"training.keep_checkpoints must be at least 1, got {self.keep_checkpoints}")
        for name, legal in _CHOICES.items():
            if getattr(self, name) not in legal:
                raise ValueError(f"training.{name} must be one of {', '.join(legal)}, got {getattr(self, name)!r}")
        for name in ("learning_rate", "temperature_init", "codebook_lr_multiplier", "log_scale_lr_multiplier"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training.{name} must be positive, got {getattr(self, name)}")


_CHOICES = {"codebook_init": ("normal", "data"), "mixed_precision": ("no", "bf16", "fp16")}


@dataclass(frozen=True)
class SpeechTrainConfig:
    """A whole run: data, model, training."""

    data: DataConfig = field(default_factory=DataConfig)
    model: SpeechModelConfig = field(default_factory=SpeechModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
