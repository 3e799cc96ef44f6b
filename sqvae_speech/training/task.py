"""What the training loop asks of what is trained: data, model, loss, scores, files."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sqvae_speech.training.config import TrainingConfig
from sqvae_speech.training.examples import Example


class Place(NamedTuple):
    """Where a process stands among those that train together.

    Attributes:
        rank: its number.
        world_size: how many there are.
        device: that it computes on.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")


class BatchSource(Protocol):
    """An endless iterable of this process' batches with a position that can be saved."""

    @property
    def epoch(self) -> float:
        """Epochs gone by, with the fraction of the current one."""
        ...

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches yielded so far; the same on every process."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position, of however many processes."""
        ...


class TaskConfig(Protocol):
    """A configuration that a task can be built from."""

    @property
    def task(self) -> str: ...

    @property
    def training(self) -> TrainingConfig: ...


class StepOutput(NamedTuple):
    """Of one batch.

    Attributes:
        loss: scalar with gradient. Averaged over processes, its gradient is that of the global batch.
        scalars: detached, for the log. Nothing waits for the device until they are written.
    """

    loss: Tensor
    scalars: dict[str, Tensor]


class Task(ABC):
    """A model with its data, as the loop sees it. The loop knows nothing of speech, images or codebooks.

    Building one opens the data and checks that the parts fit together.

    Attributes:
        name: that a configuration's ``task`` says.
        config_class: of its configuration, a dataclass with a section ``training``.
        config: the whole run.
        place: this process.
        loader: of training batches.
        monitor: the validation score whose smallest value marks the best checkpoint.
        shown: scalars on the progress line, ``{scalar: format}``.
        curves: figures drawn from the metrics, a panel a metric: ``{figure: ("train/loss", "valid/loss", ...)}``.
        amount_unit: what :meth:`amount` counts, in the plural.

    Raises:
        UserError: data that is missing or does not fit together.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    monitor: ClassVar[str] = "loss"
    shown: ClassVar[dict[str, str]] = {"loss": ".3f"}
    curves: ClassVar[dict[str, tuple[str, ...]]] = {"losses": ("train/loss", "valid/loss")}
    amount_unit: ClassVar[str] = "examples"

    config: Any
    place: Place
    loader: BatchSource

    @abstractmethod
    def __init__(self, config: Any, place: Place): ...

    @property
    @abstractmethod
    def has_validation(self) -> bool:
        """Whether there is a validation set."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A new model on ``place.device``, drawn from torch's generators as they stand.

        Raises:
            UserError: a setting out of range.
        """

    def initialize(self, model: nn.Module) -> None:
        """What a new run does to its model before the first step. It leaves ``loader`` where it was."""
        return

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Learning rates relative to ``training.learning_rate``, by the last part of a parameter's name."""
        return {}

    @abstractmethod
    def training_step(self, model: nn.Module, batch: dict[str, Any], step: int) -> StepOutput:
        """The loss of a batch.

        Args:
            model: in training mode, possibly wrapped for data parallelism.
            batch: of ``loader``, still on the CPU.
            step: steps done before this one.
        """

    def num_examples(self, batch: dict[str, Any]) -> int:
        """Over how many examples the loss of a batch is a mean."""
        return len(next(value for value in batch.values() if isinstance(value, Tensor)))

    def amount(self, batch: dict[str, Any]) -> int:
        """How much work a batch is, in ``amount_unit``."""
        return self.num_examples(batch)

    def interval_scalars(self, step: int) -> dict[str, float]:
        """What has gathered since the last call, over all processes, every one of which must call it."""
        return {}

    @abstractmethod
    def validate(self, model: nn.Module, step: int, plots_dir: Path | None) -> dict[str, float]:
        """Score a model on the validation set; the work is shared by all processes, the scores are the same on each.

        Args:
            model: not wrapped; left in the mode it was in.
            step: steps done.
            plots_dir: where figures go; None draws nothing.
        """

    def examples(self, model: nn.Module, step: int) -> Iterable[Example]:
        """What to show of the model to whoever follows the run: pictures, sounds, histograms, texts.

        Called right after :meth:`validate`, on the main process alone (so no collectives), without gradients, and
        where training's random numbers are out of reach.

        Args:
            model: not wrapped; left in the mode it was in.
            step: steps done.
        """
        return ()

    @abstractmethod
    def save_model(self, directory: Path, model: nn.Module, step: int) -> None:
        """Write into ``directory`` all that inference needs."""

    @abstractmethod
    def load_model(self, checkpoint: Path, model: nn.Module) -> None:
        """Copy a checkpoint's weights into ``model``.

        Raises:
            UserError: it is damaged, or of another model or data.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides model, optimiser and position: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        return
