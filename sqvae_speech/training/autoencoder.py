"""What tasks that train a quantized autoencoder share: temperature, the codebook's start and its use."""

import functools
from collections.abc import Generator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sqvae_speech.quantization import CodebookStatistics, QuantizerOutput
from sqvae_speech.training.collapse import CollapseWatch
from sqvae_speech.training.optimization import start_codebook
from sqvae_speech.training.schedules import temperature_at
from sqvae_speech.training.task import Task


class AutoencoderTask(Task):
    """A task whose model has a ``quantizer``.

    Attributes:
        statistics: of the codes chosen since the last line of metrics.
    """

    monitor = "mse"
    curves: ClassVar[dict[str, tuple[str, ...]]] = {
        # what shows whether a run anneals as it should
        "annealing": (
            "train/entropy",
            "valid/entropy",
            "train/variance",
            "train/relative_variance",
            "train/kappa",
            "train/temperature",
        ),
        "codebook": (
            "train/perplexity",
            "valid/perplexity",
            "train/perplexity_[0-9]*",
            "train/usage",
            "valid/usage",
            "train/collapsed",
        ),
        "losses": (
            "train/loss",
            "valid/loss",
            "train/reconstruction_loss",
            "train/kl_discrete",
            "train/kl_continuous",
        ),
        "error": ("train/mse", "valid/mse"),
    }

    statistics: CodebookStatistics

    @functools.cached_property
    def collapse(self) -> CollapseWatch:
        """Looks at ``statistics`` whenever they are read."""
        training = self.config.training
        return CollapseWatch(training.collapse_usage, training.collapse_steps, quiet=self.place.rank > 0)

    def temperature(self, step: int) -> float:
        """Of the relaxation at a step."""
        return temperature_at(self.config.training, step)

    def learning_rate_multipliers(self) -> dict[str, float]:
        training = self.config.training
        return {"codebook": training.codebook_lr_multiplier, "log_scale": training.log_scale_lr_multiplier}

    def initialize(self, model: nn.Module) -> None:
        """Start the codes at latents of the first batches, if so configured."""
        training = self.config.training
        if training.codebook_init != "data":
            return
        start = self.loader.state_dict()
        latents = self.training_latents(model)
        start_codebook(model, latents, torch.Generator().manual_seed(training.seed))
        latents.close()
        self.loader.load_state_dict(start)

    def training_latents(self, model: nn.Module) -> Generator[Tensor, None, None]:
        """Yield latents (n, D) of batch after batch of ``loader``."""
        raise NotImplementedError

    def count(self, quantization: QuantizerOutput, mask: Tensor | None) -> dict[str, Tensor]:
        """Add a batch to the statistics; returns the quantizer's scalars.

        Perplexity and usage of a single batch are set apart by ``batch_``: those of the log are of many.
        """
        self.statistics.update(quantization.indices, mask)
        return {
            f"batch_{name}" if name in ("perplexity", "usage") else name: value
            for name, value in quantization.metrics.items()
        }

    def interval_scalars(self, step: int) -> dict[str, float]:
        """``perplexity`` and ``usage`` of the codes chosen since the last call, ``collapsed`` (0 or 1) when they have
        been few for long; ``temperature``.
        """
        self.statistics.synchronize()
        scalars = {
            "perplexity": self.statistics.perplexity,
            "usage": self.statistics.usage,
            "collapsed": float(self.collapse.look(step, self.statistics.counts)),
            "temperature": self.temperature(step),
        }
        self.statistics.reset()
        return scalars

    def state_dict(self) -> dict[str, Any]:
        return {"statistics": self.statistics.counts, "collapse": self.collapse.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.statistics.counts = state["statistics"].to(self.place.device)
        self.collapse.load_state_dict(state["collapse"])
