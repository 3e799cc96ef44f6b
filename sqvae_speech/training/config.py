"""Configuration of a training run of the speech model."""

from dataclasses import dataclass, field

from sqvae_speech.data.index import MIN_FRAMES
from sqvae_speech.models.speech import SpeechModelConfig

BATCHING = ("crops", "utterances")


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Attributes:
        train: folder of training shards (with ``index.json``), or an address: ``http://...``, ``https://...``, or
            ``pipe:`` and a command that prints the file ``{name}``, which is run by a shell whatever it says.
        valid: the same of validation, or None for no validation.
        num_workers: threads that prepare batches ahead.
        batching: ``crops``, ``training.batch_size`` a step, one of every utterance in an epoch; or ``utterances``,
            whole ones of like length, as many a process as ``batch_frames`` hold.
        segment_frames: mel frames of a crop. The network eats one at each end: 34 gives 32 frames, 16 units.
        batch_frames: mel frames of one process' batch of utterances at most, padding included. A step has as many
            batches as there are processes.
        shuffle_shards: shuffle within windows of so many shards, for shards that are larger than memory or remote;
            0 shuffles all.
        cache_gb: GB (10^9 bytes) of the packed cache beside the shards at most, which batches are cut from many
            times faster; None: half of this machine's memory; 0: no cache.
        download_dir: where remote shards are kept; None: ``$XDG_CACHE_HOME/sqvae_speech/shards``, or the same under
            ``~/.cache``.
        download_gb: GB of shards there at most. The least recently used are deleted first.
    """

    train: str = ""
    valid: str | None = None
    num_workers: int = 0
    batching: str = "crops"
    segment_frames: int = 34
    batch_frames: int = 2000
    shuffle_shards: int = 0
    cache_gb: float | None = None
    download_dir: str | None = None
    download_gb: float = 100.0

    def __post_init__(self) -> None:
        if self.batching not in BATCHING:
            raise ValueError(f"data.batching must be one of {', '.join(BATCHING)}, got {self.batching!r}")
        limits = {"num_workers": 0, "segment_frames": MIN_FRAMES, "batch_frames": MIN_FRAMES, "shuffle_shards": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} must be at least {least}, got {getattr(self, name)}")
        if self.cache_gb is not None and not self.cache_gb >= 0:
            raise ValueError(f"data.cache_gb must be 0 (no cache) or more, got {self.cache_gb}")
        if not self.download_gb > 0:
            raise ValueError(f"data.download_gb must be positive, got {self.download_gb}")


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults are the published settings; counts are in optimiser steps.

    Attributes:
        num_steps: length of the run.
        batch_size: crops a step, over all processes; without effect on ``data.batching`` ``utterances``.
        learning_rate: of Adam.
        milestones: steps at which the learning rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        codebook_lr_multiplier: learning rate of the codebook relative to the rest.
        log_scale_lr_multiplier: the same for the quantizer's trainable scalar (log σ² or log κ). With Adam at rate r
            a scalar moves by about r a step: at 1 it takes 10,000 steps to anneal σ² by a factor of 50.
        codebook_init: ``normal``, or ``data``: codes start at latents of training batches.
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
