"""Trackers: what TensorBoard is given, a tracker of Accelerate's, and trackers that are missing or fail."""

import logging
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState, tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sqvae_speech.errors import UserError
from sqvae_speech.training.examples import Histogram, Picture, Sound, Text
from sqvae_speech.training.trackers import open_trackers, require_trackers

EXAMPLES = [
    Picture("mel/a", np.zeros((4, 6, 3), np.uint8)),
    Sound("target/a", np.linspace(-1, 1, 100, dtype=np.float32), 16_000),
    Histogram("codes", np.arange(8), np.array([4, 0, 0, 0, 0, 0, 0, 2.0]), bins=8),
    Text("said", "*words*"),
]


class StandIn(tracking.GeneralTracker):
    """A tracker of Accelerate's that remembers."""

    name = "stand_in"
    requires_logging_directory = True
    main_process_only = True

    def __init__(self, run_name: str, logging_dir: str, **options):
        super().__init__()
        self.calls: list[tuple] = [("made", run_name, Path(logging_dir).name)]
        made.append(self)

    @property
    def tracker(self):
        return self

    def start(self):
        self.calls.append(("start",))

    def store_init_configuration(self, values):
        self.calls.append(("config", values))

    def log(self, values, step=None, **options):
        if "train/broken" in values:
            raise ConnectionError("no network")
        self.calls.append(("log", step, values))

    def log_images(self, values, step=None, **options):
        self.calls.append(
            ("images", step, {name: [image.shape for image in images] for name, images in values.items()})
        )

    def finish(self):
        self.calls.append(("finish",))


made: list[StandIn] = []


@pytest.fixture
def stand_in(monkeypatch):
    """Register it as Accelerate registers its own."""
    made.clear()
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "stand_in", StandIn)
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, "stand_in"])


def test_tensorboard_is_given_everything(tmp_path):
    trackers = open_trackers(["tensorboard"], tmp_path, project="p", config={})
    trackers.scalars(3, {"train/loss": 2.5})
    trackers.examples(3, EXAMPLES)
    trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert (tags["scalars"], tags["images"], tags["audio"]) == (["train/loss"], ["mel/a"], ["target/a"])
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 2.5)]
    assert (events.Images("mel/a")[0].height, events.Images("mel/a")[0].width) == (4, 6)
    assert events.Audio("target/a")[0].sample_rate == 16_000
    histogram = events.Histograms("codes")[0].histogram_value
    assert (histogram.num, list(histogram.bucket)) == (6, [4, 0, 0, 0, 0, 0, 0, 2])
    assert "said/text_summary" in tags["tensors"]


def test_a_histogram_leaves_out_what_is_not_finite():
    counts, edges = Histogram("a", np.array([0.0, 1.0, np.nan, np.inf, 1.0]), bins=2).binned()
    assert counts.tolist() == [1, 2]
    assert edges.tolist() == [0, 0.5, 1]


def test_a_tracker_of_accelerate(tmp_path, stand_in):
    config = {"data": {"train": "dump"}, "training": {"milestones": [1, 2], "learning_rate": 0.5}}
    trackers = open_trackers(["stand_in"], tmp_path / "run", project="project", config=config)
    trackers.scalars(7, {"train/loss": 1.0})
    trackers.examples(7, EXAMPLES)
    trackers.close()
    flat = {"data.train": "dump", "training.milestones": "[1, 2]", "training.learning_rate": 0.5}
    assert made[0].calls == [
        ("made", "project", "stand_in"),
        ("start",),
        ("config", flat),
        ("log", 7, {"train/loss": 1.0}),
        ("images", 7, {"mel/a": [(4, 6, 3)]}),
        ("log", 7, {"said": "*words*"}),
        ("finish",),
    ]


def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
    """A stand-in for the package; the tracker is Accelerate's own."""
    PartialState(cpu=True)
    logged, starts = [], []

    class Run:
        def log(self, values, step=None):
            logged.append((step, values))

        def finish(self):
            pass

    def init(**options):
        starts.append(options)
        return Run()

    wandb = types.ModuleType("wandb")
    wandb.init, wandb.config = init, types.SimpleNamespace(update=lambda values, allow_val_change: None)
    wandb.Image = lambda pixels: ("image", pixels.shape)
    wandb.Audio = lambda wav, sample_rate: ("audio", sample_rate)
    wandb.Histogram = lambda np_histogram: ("histogram", np_histogram[0].sum())
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, "wandb"])
    for step in (1, 2):
        trackers = open_trackers(["wandb"], tmp_path / "run", project="p", config={"a": 1}, resume_step=step)
        trackers.scalars(step, {"train/loss": 1.0})
        trackers.examples(step, EXAMPLES)
        trackers.close()
    assert starts[0] == starts[1]
    assert {key: starts[0][key] for key in ("project", "name", "resume")} == {
        "project": "p",
        "name": "run",
        "resume": "allow",
    }
    assert logged[:5] == [
        (1, {"train/loss": 1.0}),
        (1, {"mel/a": ("image", (4, 6, 3))}),
        (1, {"target/a": ("audio", 16_000)}),
        (1, {"codes": ("histogram", 6.0)}),
        (1, {"said": "*words*"}),
    ]


def test_an_unknown_tracker_names_the_legal_ones():
    with pytest.raises(
        UserError, match=r"unknown tracker 'wandbb', did you mean 'wandb'\?.*usable here: .*tensorboard"
    ):
        require_trackers(["tensorboard", "wandbb"])


def test_a_tracker_that_is_not_installed_says_how_to(monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(
        UserError, match=r"comet_ml is not installed: `pip install comet-ml`.*usable here: tensorboard;"
    ):
        require_trackers(["comet_ml"])
    require_trackers(["tensorboard"])


def test_a_tracker_that_does_not_start_is_a_message(tmp_path, stand_in, monkeypatch):
    def refuse(self):
        raise RuntimeError("not logged in")

    monkeypatch.setattr(StandIn, "start", refuse)
    with pytest.raises(UserError, match=r"tracker stand_in does not start \(RuntimeError: not logged in\)"):
        open_trackers(["tensorboard", "stand_in"], tmp_path, project="p", config={})


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(tmp_path, stand_in, caplog):
    trackers = open_trackers(["stand_in", "tensorboard"], tmp_path, project="p", config={})
    with caplog.at_level(logging.WARNING):
        trackers.scalars(1, {"train/broken": 1.0})
        trackers.scalars(2, {"train/loss": 1.0})
        trackers.close()
    assert caplog.text.count("tracker stand_in failed (ConnectionError: no network)") == 1
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2]
