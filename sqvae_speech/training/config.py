"""Configuration of training, as far as it is the same whatever is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Counts are in optimiser steps.

    Attributes:
        num_steps: length of the run.
        batch_size: examples a step, over all processes.
        accumulation: parts that a process' share of the batch is divided into, one after the other, where memory is
            short. The data of a step stay the same; what is computed over a batch (batch normalisation, the MSE of
            ARELBO) is computed over the part, of all processes.
        learning_rate: of Adam, for ``reference_batch_size`` examples a step.
        learning_rate_rule: what it becomes for ``batch_size``, r times as many: the same (``none``), √r times as much
            (``sqrt``, which keeps the noise of Adam's steps; Malladi et al., arXiv 2205.10287) or r times
            (``linear``; Goyal et al., arXiv 1706.02677, found for SGD, and with a warm-up).
        reference_batch_size: see ``learning_rate_rule``; the published one of speech is 52.
        schedule: of the learning rate: ``milestones``, ``cosine``, ``plateau`` or ``constant``.
        warmup_steps: over which it rises from zero; not for ``plateau``.
        milestones: steps at which it is multiplied by ``gamma``.
        final_learning_rate: where ``cosine`` ends, relative to ``learning_rate``.
        patience: validations without a better score after which ``plateau`` multiplies it by ``gamma``.
        gamma: see ``milestones`` and ``patience``.
        weight_decay: decoupled (AdamW), of matrices; 0 is Adam.
        ema_decay: of a moving average of the weights, which is then what is validated and what checkpoints give to
            inference; 0 is without. 0.999 averages over about a thousand steps.
        max_grad_norm: gradients are clipped to this norm; 0 turns it off.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        compile: with ``torch.compile``: ``none``, ``regional`` (the model's larger parts one by one, which starts
            faster) or ``full`` (the whole model). On a GPU what is compiled runs as CUDA graphs where it can.
        seed: of weights, noise, crops and order.
        log_interval: steps between lines of metrics.
        valid_interval: steps between validations (and plots).
        checkpoint_interval: steps between checkpoints.
        keep_checkpoints: how many of the latest to keep; the best and ``keep_steps`` stay besides.
        keep_steps: steps whose checkpoints are kept, for learning curves.
        num_plots: examples drawn, and played, at each validation, with the curves so far; 0 draws nothing.
        trackers: where metrics and examples go besides ``metrics.jsonl``, as Accelerate calls them: ``tensorboard``,
            ``wandb``, ``mlflow``, ...; their own environment variables set them up (``WANDB_MODE``, ...).
        tracker_project: that trackers file the run under; its name there is that of its folder.
    """

    num_steps: int = 500_000
    batch_size: int = 52
    accumulation: int = 1
    learning_rate: float = 4e-4
    learning_rate_rule: str = "none"
    reference_batch_size: int = 52
    schedule: str = "milestones"
    warmup_steps: int = 0
    milestones: tuple[int, ...] = (300_000, 400_000)
    final_learning_rate: float = 0.0
    patience: int = 3
    gamma: float = 0.5
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    compile: str = "none"
    seed: int = 0
    log_interval: int = 50
    valid_interval: int = 1000
    checkpoint_interval: int = 1000
    keep_checkpoints: int = 2
    keep_steps: tuple[int, ...] = ()
    num_plots: int = 2
    trackers: tuple[str, ...] = ("tensorboard",)
    tracker_project: str = "sqvae_speech"

    def __post_init__(self) -> None:
        for name in (
            "num_steps",
            "batch_size",
            "reference_batch_size",
            "accumulation",
            "log_interval",
            "valid_interval",
            "checkpoint_interval",
            "keep_checkpoints",
        ):
            self._at_least(name, 1)
        self._one_of("mixed_precision", "no", "bf16", "fp16")
        self._one_of("compile", "none", "regional", "full")
        self._one_of("learning_rate_rule", "none", "sqrt", "linear")
        self._one_of("schedule", "milestones", "cosine", "plateau", "constant")
        self._positive("learning_rate")
        self._at_least("warmup_steps", 0)
        self._at_least("weight_decay", 0)
        self._at_least("patience", 0)
        self._between("final_learning_rate", 0.0, 1.0)
        self._between("gamma", 0.0, 1.0)
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"training.ema_decay must be at least 0 and below 1, got {self.ema_decay}")
        if self.schedule == "plateau" and self.warmup_steps:
            raise ValueError(f"training.warmup_steps must be 0 with schedule plateau, got {self.warmup_steps}")

    @property
    def scaled_learning_rate(self) -> float:
        """``learning_rate`` by ``learning_rate_rule``."""
        exponent = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[self.learning_rate_rule]
        return self.learning_rate * (self.batch_size / self.reference_batch_size) ** exponent

    def _at_least(self, name: str, least: float) -> None:
        if getattr(self, name) < least:
            raise ValueError(f"training.{name} must be at least {least}, got {getattr(self, name)}")

    def _between(self, name: str, least: float, most: float) -> None:
        if not least <= getattr(self, name) <= most:
            raise ValueError(f"training.{name} must be from {least:g} to {most:g}, got {getattr(self, name)}")

    def _positive(self, name: str) -> None:
        if not getattr(self, name) > 0:
            raise ValueError(f"training.{name} must be positive, got {getattr(self, name)}")

    def _one_of(self, name: str, *legal: str) -> None:
        if getattr(self, name) not in legal:
            raise ValueError(f"training.{name} must be one of {', '.join(legal)}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class AutoencoderTrainingConfig(TrainingConfig):
    """How to train a quantized autoencoder. The defaults are the published settings of the speech model.

    Attributes:
        codebook_lr_multiplier: learning rate of the codebook relative to the rest.
        log_scale_lr_multiplier: the same for the quantizer's trainable scalar (log σ² or log κ). With Adam at rate r
            a scalar moves by about r a step: at 1 it takes 10,000 steps to anneal σ² by a factor of 50. 0 keeps it.
        codebook_init: ``normal``, or ``data``: codes start at latents of training batches.
        temperature_init: Gumbel-softmax temperature at step 0.
        temperature_decay: τ = init · exp(-decay · step), as published.
        temperature_final: where τ ends, falling by the same factor each step, in place of ``temperature_decay``.
        collapse_usage: a warning is given when less than this share of the codes has been in use for
            ``collapse_steps``; 0 turns it off.
        collapse_steps: see ``collapse_usage``.
    """

    codebook_lr_multiplier: float = 1.0
    log_scale_lr_multiplier: float = 1.0
    codebook_init: str = "normal"
    temperature_init: float = 1.0
    temperature_decay: float = 1e-5
    temperature_final: float | None = None
    collapse_usage: float = 0.05
    collapse_steps: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("codebook_init", "normal", "data")
        self._at_least("log_scale_lr_multiplier", 0.0)
        for name in ("temperature_init", "codebook_lr_multiplier"):
            self._positive(name)
        if self.temperature_final is not None:
            self._positive("temperature_final")
        if not 0 <= self.collapse_usage <= 1:
            raise ValueError(f"training.collapse_usage must be a share from 0 to 1, got {self.collapse_usage}")
        self._at_least("collapse_steps", 0)


@dataclass(frozen=True)
class TransformerTrainingConfig(TrainingConfig):
    """How to train a small transformer over units: other defaults."""

    num_steps: int = 20_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 200
    weight_decay: float = 0.1
    num_plots: int = 1
