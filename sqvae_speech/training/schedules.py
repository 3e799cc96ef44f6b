"""What changes with the step: learning rate and temperature."""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from sqvae_speech.training.config import AutoencoderTrainingConfig, TrainingConfig


def temperature_at(config: AutoencoderTrainingConfig, step: int) -> float:
    """Gumbel-softmax temperature at a step.

    ``init · exp(-decay · step)``, as published; or, with ``temperature_final``, from ``init`` to ``final`` by the
    same factor a step, whatever the length of the run.
    """
    if config.temperature_final is None:
        return config.temperature_init * math.exp(-config.temperature_decay * step)
    fraction = min(step / config.num_steps, 1.0)
    return config.temperature_init * (config.temperature_final / config.temperature_init) ** fraction


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """The learning rate at a step relative to its full value, of every schedule but ``plateau``.

    A linear rise over ``warmup_steps``, times ``gamma`` for each milestone gone by (``milestones``), or half a cosine
    from 1 to ``final_learning_rate`` over what is left of the run (``cosine``), or 1 (``constant``).
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "milestones":
        return config.gamma ** sum(step >= milestone for milestone in config.milestones)
    if config.schedule == "cosine":
        fraction = (step - config.warmup_steps) / max(config.num_steps - config.warmup_steps, 1)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))
        return config.final_learning_rate + (1.0 - config.final_learning_rate) * cosine
    return 1.0


class LearningRate:
    """Sets the learning rate of an optimiser's groups, each relative to the rate it was built with.

    Args:
        optimizer: as it is before any step.
        config: which schedule.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainingConfig):
        self._optimizer = optimizer
        self._by_step: LambdaLR | None = None
        self._by_score: ReduceLROnPlateau | None = None
        if config.schedule == "plateau":
            self._by_score = ReduceLROnPlateau(optimizer, factor=config.gamma, patience=config.patience)
        else:
            self._by_step = LambdaLR(optimizer, lambda step: learning_rate_factor(config, step))

    @property
    def current(self) -> float:
        """Of the first group, which has no multiplier."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """An optimiser step has been done."""
        if self._by_step is not None:
            self._by_step.step()

    def after_validation(self, score: float) -> None:
        """A validation has given ``score``, of which less is better."""
        if self._by_score is not None:
            self._by_score.step(score)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        schedule = self._by_step or self._by_score
        assert schedule is not None
        return {name: value for name, value in schedule.state_dict().items() if name != "lr_lambdas"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on; a schedule by step takes the step alone, so that changed settings of the run hold."""
        if self._by_score is not None:
            self._by_score.load_state_dict(state)
        elif self._by_step is not None:
            self._by_step.last_epoch = state["last_epoch"]
            for group, factor, base in zip(
                self._optimizer.param_groups, self._by_step.lr_lambdas, self._by_step.base_lrs, strict=True
            ):
                group["lr"] = base * factor(state["last_epoch"])
