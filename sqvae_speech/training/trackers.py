"""Where metrics and examples go besides ``metrics.jsonl``: TensorBoard, and trackers through Accelerate."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from accelerate import tracking
from torch.utils.tensorboard import SummaryWriter

from sqvae_speech.config import flatten
from sqvae_speech.data.files import write_text
from sqvae_speech.errors import UserError, nearest
from sqvae_speech.training.examples import Example, Histogram, Picture, Sound, Text

logger = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"


class Tracker(Protocol):
    """Takes what a run reports. What it cannot show, it leaves out."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """``values`` by name, ``train/loss``."""
        ...

    def example(self, step: int, example: Example) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files.

    Args:
        folder: for them.
        resume_step: what they have after this step, written before an interruption, is hidden.
    """

    def __init__(self, folder: Path, resume_step: int = 0):
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def example(self, step: int, example: Example) -> None:
        match example:
            case Picture():
                self._writer.add_image(example.name, example.pixels, step, dataformats="HWC")
            case Sound():
                self._writer.add_audio(example.name, example.wav[None], step, sample_rate=example.sample_rate)
            case Histogram():
                counts, edges = example.binned()
                middles = (edges[:-1] + edges[1:]) / 2
                self._writer.add_histogram_raw(
                    example.name,
                    min=edges[0],
                    max=edges[-1],
                    num=counts.sum(),
                    sum=counts @ middles,
                    sum_squares=counts @ middles**2,
                    bucket_limits=edges[1:].tolist(),
                    bucket_counts=counts.tolist(),
                    global_step=step,
                )
            case Text():
                self._writer.add_text(example.name, example.text, step)

    def close(self) -> None:
        self._writer.close()


class AccelerateTracker:
    """A tracker that Accelerate knows.

    Args:
        tracker: started here.
        config: of the run, nested.
    """

    def __init__(self, tracker: tracking.GeneralTracker, config: Mapping[str, Any]):
        self._tracker = tracker
        if hasattr(tracker, "start"):  # Accelerate before 1.7 starts them as it makes them
            tracker.start()
        values = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in flatten(config).items()
        }
        tracker.store_init_configuration(values)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.log(dict(values), step=step)

    def example(self, step: int, example: Example) -> None:
        if isinstance(example, Text):
            self._tracker.log({example.name: example.text}, step=step)
        elif self._tracker.name == "wandb":
            self._tracker.log({example.name: _for_wandb(example)}, step=step)
        elif isinstance(example, Picture) and hasattr(self._tracker, "log_images"):
            self._tracker.log_images({example.name: [example.pixels]}, step=step)

    def close(self) -> None:
        self._tracker.finish()


def _for_wandb(example: Picture | Sound | Histogram) -> Any:
    import wandb

    match example:
        case Picture():
            return wandb.Image(example.pixels)
        case Sound():
            return wandb.Audio(np.asarray(example.wav), sample_rate=example.sample_rate)
        case Histogram():
            return wandb.Histogram(np_histogram=example.binned())


class Trackers:
    """Several as one. A tracker that fails, as on a network that is gone, is left out from then on.

    Args:
        trackers: by name.
    """

    def __init__(self, trackers: Mapping[str, Tracker]):
        self._trackers = dict(trackers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.scalars(step, values))

    def examples(self, step: int, examples: Iterable[Example]) -> None:
        for example in examples:
            self._each(lambda tracker, example=example: tracker.example(step, example))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def __len__(self) -> int:
        return len(self._trackers)

    def _each(self, call: Callable[..., None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # whatever a service or its client may raise: no reason to lose the run
                del self._trackers[name]
                logger.warning(
                    "tracker %s failed (%s: %s) and is left out from here on; metrics.jsonl has everything",
                    name,
                    type(error).__name__,
                    error,
                )


def require_trackers(names: Iterable[str]) -> None:
    """Check that every tracker is known and installed.

    Raises:
        UserError: it lists those that are.
    """
    known = list(tracking.LOGGER_TYPE_TO_CLASS)
    installed = {str(name) for name in tracking.get_available_trackers()}
    usable = [name for name in known if name in installed or name == TENSORBOARD]
    for name in names:
        here = f"usable here: {', '.join(usable)}; known: {', '.join(known)}"
        if name not in known:
            raise UserError(f"training.trackers: unknown tracker {name!r}{nearest(name, known)}; {here}")
        if name not in usable:
            raise UserError(
                f"training.trackers: {name} is not installed: `pip install {name.replace('_', '-')}`, or leave it "
                f"out; {here}"
            )


def open_trackers(
    names: Iterable[str], exp_dir: Path, *, project: str, config: Mapping[str, Any], resume_step: int = 0
) -> Trackers:
    """Start trackers; on the main process.

    Args:
        names: as Accelerate calls them; ``tensorboard`` writes to ``exp_dir/tensorboard``.
        exp_dir: of the run, whose name is the run's.
        project: that trackers file the run under.
        config: of the run, nested.
        resume_step: that it goes on from.

    Raises:
        UserError: see :func:`require_trackers`; a tracker that does not start, without network or login for example.
    """
    names = list(dict.fromkeys(names))
    require_trackers(names)
    started: dict[str, Tracker] = {}
    for name in names:
        if name == TENSORBOARD:
            started[name] = TensorBoard(exp_dir / "tensorboard", resume_step)
            continue
        made = tracking.LOGGER_TYPE_TO_CLASS[name]
        options: dict[str, Any] = {"logging_dir": str(exp_dir / name)} if made.requires_logging_directory else {}
        if name == "wandb":
            options = {"name": exp_dir.name, "id": _wandb_id(exp_dir), "resume": "allow", "dir": str(exp_dir)}
        try:
            started[name] = AccelerateTracker(made(project, **options), config)
        except Exception as error:  # whatever a service or its client may raise
            Trackers(started).close()
            raise UserError(
                f"tracker {name} does not start ({type(error).__name__}: {error}); see to its login or network, or "
                "leave it out of training.trackers"
            ) from error
    return Trackers(started)


def _wandb_id(exp_dir: Path) -> str:
    """The run's id, kept beside it: a run that is resumed goes on in the same curves."""
    path = exp_dir / "wandb_id"
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8").strip()
    name = uuid4().hex[:8]
    write_text(path, name + "\n")
    return name
