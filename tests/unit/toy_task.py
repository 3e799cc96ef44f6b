"""A task small enough to check the loop's arithmetic: linear regression of random numbers, with dropout if wanted."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sqvae_speech.training import tasks
from sqvae_speech.training.config import TrainingConfig
from sqvae_speech.training.metrics_log import read_metrics
from sqvae_speech.training.task import Place, StepOutput, Task


@dataclass(frozen=True)
class ToyConfig:
    """A run."""

    task: str = "toy"
    dropout: float = 0.0
    broken_step: int = -1  # whose data are not finite
    validate: bool = True
    training: TrainingConfig = field(default_factory=TrainingConfig)


class ToyLoader:
    """Batch n is drawn from the seed n."""

    def __init__(self, config: ToyConfig, place: Place):
        self.config = config
        self.place = place
        self.position = 0

    @property
    def epoch(self) -> float:
        return self.position / 10

    def __iter__(self):
        while True:
            share = self.config.training.batch_size // self.place.world_size
            generator = torch.Generator().manual_seed(self.position)
            x = torch.randn(self.config.training.batch_size, 3, dtype=torch.float64, generator=generator)
            x = x[self.place.rank * share :][:share]
            if self.position == self.config.broken_step:
                x[2, 1] = float("nan")
            names = [f"example-{self.position}-{number}" for number in range(len(x))]
            self.position += 1
            yield {"x": x, "y": x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 3.0, "id": names}

    def state_dict(self) -> dict:
        return {"position": self.position}

    def load_state_dict(self, state: dict) -> None:
        self.position = state["position"]


class ToyModel(nn.Module):
    def __init__(self, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(3, 1, dtype=torch.float64)

    def forward(self, x):
        return self.linear(self.dropout(x))[:, 0]


class ToyTask(Task):
    name = "toy"
    config_class = ToyConfig

    def __init__(self, config: ToyConfig, place: Place):
        self.config = config
        self.place = place
        self.loader = ToyLoader(config, place)

    @property
    def has_validation(self) -> bool:
        return self.config.validate

    def build_model(self) -> ToyModel:
        return ToyModel(self.config.dropout)

    def training_step(self, model, batch, step) -> StepOutput:
        loss = (model(batch["x"]) - batch["y"]).square().mean()
        return StepOutput(loss, {"loss": loss.detach()})

    def validate(self, model, step, plots_dir) -> dict[str, float]:
        return {"loss": float(model.linear.bias.detach()[0] - 3.0) ** 2}

    def save_model(self, directory: Path, model, step: int) -> None:
        save_file(model.state_dict(), directory / "model.safetensors")

    def load_model(self, checkpoint: Path, model) -> None:
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))


@pytest.fixture
def toy(monkeypatch) -> None:
    """Lets ``task: toy`` be trained."""
    monkeypatch.setitem(tasks.TASKS, "toy", ("toy_task", "ToyTask"))


def settings(**changes) -> TrainingConfig:
    """Ten steps of nine examples, each with a line of metrics; no plots."""
    defaults = {"num_steps": 10, "batch_size": 9, "learning_rate": 0.1, "log_interval": 1, "valid_interval": 5}
    return TrainingConfig(**{**defaults, "num_plots": 0, "checkpoint_interval": 5, **changes})


def weights(exp_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(exp_dir / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def column(exp_dir: Path, name: str, split: str = "train") -> list[float]:
    return [row[name] for row in read_metrics(exp_dir / "metrics.jsonl") if row["split"] == split]
