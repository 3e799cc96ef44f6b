"""What tools/bench_train.py times: one training step, in phases, of the package and of plain loops.

A contender is built for one problem; ``step()`` does a step and returns the seconds of data, forward, backward and
optimiser. All get batches of the same shards, cut by the package's loader, in the same order.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from plain_speech import PlainSpeech
from torch import Tensor, nn

from sqvae_speech.config import load_config
from sqvae_speech.models import native
from sqvae_speech.training.loading import build_loader, load_index
from sqvae_speech.training.schedules import temperature_at
from sqvae_speech.training.speech_config import SpeechTrainConfig
from sqvae_speech.training.trainer import Trainer

PHASES = ("data", "forward", "backward", "optimiser")


@dataclass(frozen=True)
class Problem:
    """A size of the published network, and where its data lie.

    Attributes:
        shards: folder of training shards.
        exp_dir: for the package's trainer.
        official: checkout of the published code, if any.
        covariance: ``global`` (type I) or ``diagonal`` (type IV).
        batch_size: crops a step, over all processes.
        channels: of the convolutions.
        device: ``cpu`` or ``cuda``.
    """

    shards: str
    exp_dir: str
    official: str | None = None
    covariance: str = "diagonal"
    batch_size: int = 52
    channels: int = 768
    device: str = "cpu"

    @property
    def frames(self) -> int:
        """Mel frames reconstructed a step: 32 of each crop."""
        return 32 * self.batch_size

    def config(self, *more: str) -> SpeechTrainConfig:
        words = {
            "data.train": self.shards,
            "model.channels": self.channels,
            "model.quantizer.covariance": self.covariance,
            "training.batch_size": self.batch_size,
            "training.num_plots": 0,
        }
        overrides = [word for key, value in words.items() for word in (f"--{key}", str(value))]
        return load_config(SpeechTrainConfig, None, [*overrides, *more])


class Stopwatch:
    """Seconds by phase of one step; waits for the device at each end only if it is told to."""

    def __init__(self, wait: Callable[[], None]):
        self.wait = wait
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._start = time.perf_counter()

    def done(self, phase: str) -> None:
        self.wait()
        now = time.perf_counter()
        self.seconds[phase] += now - self._start
        self._start = now


class Contender:
    """A training loop that is timed."""

    def step(self, watch: Stopwatch) -> None:
        """Do a step, telling ``watch`` the end of each phase."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of processes and files."""


class Ours(Contender):
    """The trainer itself: its step, with the ends of phases told by what it calls."""

    def __init__(self, problem: Problem, *, half: bool = False, compile: str = "none", backend: str = "auto"):
        self.backend = backend
        precision = ["--training.mixed_precision", "bf16"] if half else []
        config = problem.config("--training.compile", compile, *precision)
        self.trainer = Trainer(config, Path(problem.exp_dir), resume=False, progress=False)
        self.batches = iter(self.trainer.task.loader)
        self.trainer.model.train()
        self.watch: Stopwatch | None = None
        task, accelerator = self.trainer.task, self.trainer.accelerator
        task.training_step = self._told("forward", task.training_step)  # type: ignore[method-assign]
        accelerator.backward = self._told("backward", accelerator.backward)  # type: ignore[method-assign]

    def _told(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **options: Any) -> Any:
            result = function(*args, **options)
            if self.watch is not None:
                self.watch.done(phase)
            return result

        return told

    def step(self, watch: Stopwatch) -> None:
        os.environ[native.ENVIRONMENT_VARIABLE] = self.backend
        self.watch = watch
        batch = next(self.batches)
        watch.done("data")
        self.trainer._train_step(batch)
        watch.done("optimiser")

    def close(self) -> None:
        self.trainer._close()


class Loop(Contender):
    """The published loop: eager, Adam parameter by parameter, gradients clipped, the loss read at every step."""

    def __init__(self, problem: Problem, modules: list[nn.Module], loss: Callable[[Tensor, Tensor, float], Tensor]):
        config = problem.config()
        self.device, self.loss, self.training = problem.device, loss, config.training
        index = load_index(config.data, "train")
        self.batches = iter(build_loader(index, config.data, config.training, rank=0, world_size=1))
        self.parameters = [parameter for module in modules for parameter in module.to(self.device).parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=4e-4, foreach=False, fused=False)
        self.steps = 0

    def step(self, watch: Stopwatch) -> None:
        batch = next(self.batches)
        watch.done("data")
        self.optimizer.zero_grad()
        loss = self.loss(
            batch["mel"].to(self.device), batch["speaker"].to(self.device), temperature_at(self.training, self.steps)
        )
        watch.done("forward")
        loss.backward()
        watch.done("backward")
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=False)
        self.optimizer.step()
        loss.item()
        self.steps += 1
        watch.done("optimiser")


def plain(problem: Problem) -> Loop:
    model = PlainSpeech(problem.covariance, channels=problem.channels).train()
    return Loop(problem, [model], lambda mel, speaker, temperature: model(mel, speaker, temperature))


def official(problem: Problem) -> Loop:
    """The published modules, and the loss of the published training script, which imports apex."""
    module = _official_model(problem)
    kind = {"global": "gaussian_1", "diagonal": "gaussian_4"}[problem.covariance]
    encoder = module.Encoder(kind, 80, problem.channels, 512, 64, 0.5).train()
    decoder = module.Decoder(64, 80, 100, 64, 128, 256).train()

    def loss(mel: Tensor, speaker: Tensor, temperature: float) -> Tensor:
        z, latent_loss, _ = encoder(mel, temperature)
        output, target = decoder(z, speaker).transpose(1, 2), mel[:, :, 1:-1]
        return 0.5 * (target.numel() // len(target)) * torch.log(torch.mean((output - target) ** 2)) + latent_loss

    return Loop(problem, [encoder, decoder], loss)


def _official_model(problem: Problem) -> ModuleType:
    assert problem.official is not None
    file = Path(problem.official) / "speech/model.py"
    if not file.is_file():
        raise SystemExit(f"{problem.official} has no speech/model.py: --official wants a checkout of sony/sqvae")
    spec = importlib.util.spec_from_file_location("official_model", file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["official_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["official_model"])
    return sys.modules["official_model"]


CONTENDERS: dict[str, Callable[[Problem], Contender]] = {
    "plain loop": plain,
    "official": official,
    "ours": Ours,
    "ours bf16": lambda problem: Ours(problem, half=True),
    "ours of PyTorch's layers": lambda problem: Ours(problem, backend="torch"),
    "ours bf16 of PyTorch's layers": lambda problem: Ours(problem, half=True, backend="torch"),
    "ours compiled": lambda problem: Ours(problem, compile="regional"),
    "ours bf16 compiled": lambda problem: Ours(problem, half=True, compile="regional"),
}
