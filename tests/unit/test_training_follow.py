"""Following a run: what a whole run of a small task leaves behind, and how it says it ended."""

import json
import logging
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from sqvae_speech.bin._cli import run
from sqvae_speech.bin.train import main
from sqvae_speech.training import metrics_log, tasks, trainer
from sqvae_speech.training.config import TrainingConfig
from sqvae_speech.training.examples import Histogram, Text
from sqvae_speech.training.metrics_log import MetricsLog, read_metrics
from sqvae_speech.training.record import read_starts, read_status
from sqvae_speech.training.task import StepOutput, Task


@dataclass(frozen=True)
class LineConfig:
    task: str = "line"
    slope: float = 2.0
    training: TrainingConfig = field(default_factory=TrainingConfig)


class Points:
    """Endless batches of points on a line."""

    epoch = 0.0

    def __init__(self, slope: float):
        self.slope = slope
        self.number = 0

    def __iter__(self):
        while True:
            x = torch.rand(4, 1, generator=torch.Generator().manual_seed(self.number))
            self.number += 1
            yield {"x": x, "y": self.slope * x}

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


class LineTask(Task):
    """Fits a line to points: the least that can be trained."""

    name = "line"
    config_class = LineConfig
    amount_unit = "points"
    shown: ClassVar[dict[str, str]] = {"loss": ".3f"}

    def __init__(self, config, place):
        self.config = config
        self.place = place
        self.loader = Points(config.slope)

    @property
    def has_validation(self):
        return True

    def build_model(self):
        return nn.Linear(1, 1)

    def training_step(self, model, batch, step):
        loss = ((model(batch["x"]) - batch["y"]) ** 2).mean()
        return StepOutput(loss, {"loss": loss.detach()})

    def validate(self, model, step, plots_dir):
        return {"loss": abs(float(model.weight.detach()) - self.config.slope)}

    def examples(self, model, step):
        if self.config.slope == 7.0:
            raise RuntimeError("cannot draw")
        yield Histogram("weight", model.weight.numpy().ravel(), bins=2)
        yield Text("draw", str(torch.rand(1).item()))  # moves a generator, but not training's

    def save_model(self, directory, model, step):
        torch.save(model.state_dict(), directory / "model.pt")

    def load_model(self, checkpoint, model):
        model.load_state_dict(torch.load(checkpoint / "model.pt", weights_only=True))


@pytest.fixture(autouse=True)
def line_task(monkeypatch):
    monkeypatch.setattr(tasks, "task_class", lambda name: LineTask)
    monkeypatch.setattr(trainer, "task_class", lambda name: LineTask)


def words(exp_dir: Path, *more: str) -> list[str]:
    common = "--no-progress --training.num_steps 6 --training.log_interval 2 --training.valid_interval 3"
    common += " --training.milestones [] --training.checkpoint_interval 3 --training.num_plots 0"
    return ["--exp-dir", str(exp_dir), *common.split(), *(word for text in more for word in text.split())]


def test_what_a_run_leaves_behind(tmp_path, caplog):
    exp_dir = tmp_path / "exp"
    with caplog.at_level(logging.INFO):
        assert main([word for word in words(exp_dir, "--training.num_plots 1") if word != "--no-progress"]) == 0
    assert [line.partition(",")[0] for line in caplog.messages if "step " in line] == ["step 3/6", "step 6/6"]
    names = {path.name for path in exp_dir.iterdir()}
    assert names >= {
        *("checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "plots"),
        *("starts.jsonl", "status.json", "tensorboard"),
    }
    status = read_status(exp_dir)
    assert (status["state"], status["step"], status["message"]) == ("finished", 6, "")
    assert {path.name for path in (exp_dir / "plots").iterdir()} == {"losses.png", "optimization.png", "speed.png"}
    rows = read_metrics(exp_dir / "metrics.jsonl")
    assert [(row["step"], row["split"]) for row in rows] == [
        *((2, "train"), (3, "valid")),
        *((4, "train"), (6, "train"), (6, "valid")),
    ]
    train = rows[0]
    assert train["points_per_second"] == pytest.approx(4 * train["steps_per_second"])
    assert train["steps_per_second"] > 0
    assert 0 <= train["data_seconds"] < 1 / train["steps_per_second"]
    assert rows[2]["run_seconds"] >= train["run_seconds"] > 0
    events = EventAccumulator(str(exp_dir / "tensorboard"), size_guidance={"histograms": 0})
    events.Reload()
    assert [event.step for event in events.Histograms("weight")] == [3, 6]
    assert {"train/points_per_second", "valid/loss"} <= set(events.Tags()["scalars"])


def test_looking_on_changes_nothing(tmp_path):
    main(words(tmp_path / "a", "--training.num_plots 1"))
    main(words(tmp_path / "b", "--training.trackers []"))
    losses = [[row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("a", "b")]
    assert losses[0] == losses[1]
    assert not (tmp_path / "b" / "tensorboard").exists()
    assert not (tmp_path / "b" / "plots").exists()


def test_a_resume_is_written_down(tmp_path):
    main(words(tmp_path))
    main(words(tmp_path, "--training.num_steps 9"))
    starts = read_starts(tmp_path)
    assert [start["step"] for start in starts] == [0, 6]
    assert starts[1]["changed"] == {"training.num_steps": [6, 9]}
    assert read_status(tmp_path)["step"] == 9


def test_a_run_that_diverges_says_so(tmp_path, capsys):
    assert run(main, words(tmp_path, "--training.learning_rate 1e38 --training.max_grad_norm 0")) == 1
    status = read_status(tmp_path)
    assert status["state"] == "diverged"
    assert "training has diverged" in status["message"]
    assert "training has diverged" in capsys.readouterr().err


def test_a_run_that_fails_says_so(tmp_path, monkeypatch):
    def fail(self, model, step, plots_dir):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LineTask, "validate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        main(words(tmp_path))
    assert {key: read_status(tmp_path)[key] for key in ("state", "step", "message")} == {
        "state": "failed",
        "step": 3,
        "message": "out of memory",
    }


@pytest.mark.parametrize("at_once", [False, True])
def test_a_run_that_is_interrupted_says_so(tmp_path, monkeypatch, at_once):
    def interrupt(self, model, step, plots_dir):
        if at_once:  # a second Ctrl-C
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 1.0}

    monkeypatch.setattr(LineTask, "validate", interrupt)
    assert run(main, words(tmp_path)) == (130 if at_once else 128 + signal.SIGTERM)
    status = read_status(tmp_path)
    assert (status["state"], status["step"]) == ("interrupted", 3)
    assert (tmp_path / "checkpoints" / "latest").exists() != at_once


def test_examples_that_fail_are_no_reason_to_stop(tmp_path, caplog):
    assert main(words(tmp_path, "--slope 7 --training.num_plots 1 --training.valid_interval 6")) == 0
    assert caplog.text.count("examples cannot be shown: RuntimeError: cannot draw; the run goes on") == 1


def test_a_tracker_by_a_flag_is_checked_before_anything_is_done(tmp_path, capsys):
    assert run(main, words(tmp_path / "exp", "--tracker nonsense")) == 1
    assert "unknown tracker 'nonsense'" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


def test_a_flag_adds_to_the_trackers_of_the_configuration(tmp_path, capsys):
    assert main(words(tmp_path, "--tracker wandb --tracker tensorboard --print-config")) == 0
    assert "trackers:\n  - tensorboard\n  - wandb\n" in capsys.readouterr().out


def test_curves_have_a_panel_a_metric(tmp_path, monkeypatch):
    drawn = {}

    def plot_curves(path, curves, *, panels, log_y):
        drawn[path.name] = (curves, panels, log_y)

    monkeypatch.setattr("sqvae_speech.plots.plot_curves", plot_curves)
    log = MetricsLog(
        tmp_path, {"codebook": ("train/usage", "valid/usage", "train/perplexity_*"), "none": ("train/x",)}
    )
    log.write(1, "train", {"usage": 0.5, "perplexity_0": 3.0, "perplexity_1": 4.0, "grad_norm": 9.0})
    log.write(2, "valid", {"usage": 0.25})
    log.plot()
    log.close()
    curves, panels, _ = drawn["codebook.png"]
    assert panels == {
        "usage": ["train/usage", "valid/usage"],
        "perplexity_0": ["train/perplexity_0"],
        "perplexity_1": ["train/perplexity_1"],
    }
    assert curves["valid/usage"] == ([2], [0.25])
    assert drawn["optimization.png"][2] == ["grad_norm"]
    assert drawn.keys() == {"codebook.png", "optimization.png"}
    assert metrics_log.curve(json.loads("[]"), "train", "loss") == ([], [])


def test_panels_are_drawn(tmp_path):
    from matplotlib.image import imread

    from sqvae_speech.plots import mel_picture, plot_curves

    curves = {"train/a": ([0, 1], [1.0, 2.0]), "valid/a": ([1], [3.0]), "train/b": ([0, 1], [1e-3, 1e3])}
    grouped = imread(
        plot_curves(tmp_path / "a.png", curves, panels={"a": ["train/a", "valid/a"], "b": ["train/b"]}, log_y=["b"])
    )
    apart = imread(plot_curves(tmp_path / "b.png", curves, panels=True))
    assert grouped.shape[0] < apart.shape[0]  # two panels, three panels
    picture = mel_picture((np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[3.0], [np.nan]])), scale=2)
    assert picture.shape == (2 * (2 + 1 + 2), 4, 3)
    assert (picture[4:6] == 255).all()  # the line between
    assert (picture[6:, 2:] == 255).all()  # beyond the end of the shorter one
    assert picture[0, 2].tolist() == picture[8, 0].tolist()  # both are 3.0, on one scale
    assert picture[0, 2].sum() > picture[2, 0].sum()  # high bands at the top
