"""The training loop, on Accelerate: one process or many, counted in optimiser steps, whatever the task."""

import contextlib
import copy
import gc
import itertools
import logging
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sqvae_speech.allocation import keep_freed_memory
from sqvae_speech.config import dump_yaml
from sqvae_speech.errors import UserError
from sqvae_speech.training.checkpoint import Checkpoints, random_states, set_random_states, snapshot
from sqvae_speech.training.compilation import compile_model
from sqvae_speech.training.finite import FiniteWatch
from sqvae_speech.training.follow import RunFollower
from sqvae_speech.training.interruption import Interrupted, Interruption
from sqvae_speech.training.optimization import build_optimizer
from sqvae_speech.training.schedules import LearningRate
from sqvae_speech.training.task import Place, Task, TaskConfig
from sqvae_speech.training.tasks import task_class
from sqvae_speech.training.trackers import require_trackers
from sqvae_speech.version import __version__

logger = logging.getLogger(__name__)


def train(config: TaskConfig, exp_dir: str | Path, *, resume: bool = True, progress: bool = True) -> Path:
    """Train a model.

    Args:
        config: the whole run; its ``task`` says of what.
        exp_dir: where checkpoints, metrics, plots and the record of the run go.
        resume: go on from ``checkpoints/latest`` when it is there; False refuses to touch a folder that has one.
        progress: show a progress line.

    Returns:
        The last checkpoint.

    Raises:
        UserError: a tracker that is unknown or not installed, data that is missing or does not fit together, a batch
            that processes cannot share, a checkpoint of another model or data, a last checkpoint that cannot be
            written.
        DivergedError: a loss that is not finite.
        Interrupted: SIGTERM, SIGUSR1 or SIGINT came; the step was finished and saved.
    """
    return Trainer(config, Path(exp_dir), resume=resume, progress=progress).run()


class Trainer:
    """One run; :func:`train` is the way in."""

    def __init__(self, config: TaskConfig, exp_dir: Path, *, resume: bool, progress: bool):
        self.config = config
        self.exp_dir = exp_dir
        settings = config.training
        require_trackers(settings.trackers)
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            # static: every step uses every parameter in the same way
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        self.place = Place(self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device)
        if self.place.device.type == "cpu":
            keep_freed_memory()
        self.task: Task = task_class(config.task)(config, self.place)
        self.checkpoints = Checkpoints(exp_dir, settings.keep_checkpoints, settings.keep_steps)
        resume_from = self.checkpoints.latest()
        if resume_from is not None and not resume:
            raise UserError(f"{exp_dir} has checkpoints of an earlier run: resume it, or give another folder")
        self._require_parts()
        set_seed(settings.seed)
        model = self.task.build_model()
        self.average = _average(model, settings.ema_decay)
        self.step = 0
        self.best = float("inf")
        state = None
        if resume_from is not None:
            self.task.load_model(resume_from, model)
            logger.info("resuming from %s", resume_from)
            state = self.checkpoints.load_state(resume_from)
        else:
            self.task.initialize(model)
        if self.average is not None:
            self.average.module.load_state_dict(model.state_dict())
        optimizer = build_optimizer(model, settings, self.task.learning_rate_multipliers())
        self.learning_rate = LearningRate(optimizer, settings)
        if state is not None:
            self._restore_weights(state, model, optimizer)
        compile_model(model, settings.compile, self.task)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # other noise on every process, the same each time
        set_seed(settings.seed + 1 + self.place.rank)
        if state is not None:
            self._restore_position(state)
        self.watch = FiniteWatch(
            self.place.device,
            settings.log_interval,
            self._after_divergence,
            norm_counts=settings.mixed_precision != "fp16",
        )
        self.follow = RunFollower(config, exp_dir, self.task, self.accelerator, step=self.step, progress=progress)

    def run(self) -> Path:
        """Train from the current step to the last."""
        settings = self.config.training
        received = 0
        with self.follow, Interruption(self.place.device, settings.log_interval) as interruption:
            batches = self.follow.batches(iter(self.task.loader))
            self.model.train()
            while self.step < settings.num_steps and not received:
                report = self._train_step(next(batches))
                self.follow.stepped(self.step)
                if self.step % settings.log_interval == 0:
                    self._log_training(report)
                last = self.step == settings.num_steps
                improved = False
                if self.task.has_validation and (self.step % settings.valid_interval == 0 or last):
                    with self.follow.pause():
                        improved = self._validate()
                received = 0 if last else interruption.agreed(self.step)
                if (
                    improved
                    or last
                    or received
                    or self.step % settings.checkpoint_interval == 0
                    or self.step in settings.keep_steps
                ):
                    with self.follow.pause():
                        self._save(best=improved)
            self._close()
        latest = self.checkpoints.latest()
        assert latest is not None or self.step == 0
        if received:
            raise Interrupted(received, self.step, latest)
        assert latest is not None
        return latest

    def _close(self) -> None:
        """Wait for what is being written, let go of the other processes."""
        try:
            self.checkpoints.finish()
        finally:
            self.accelerator.wait_for_everyone()
            self._leave_processes()

    def _leave_processes(self) -> None:
        """Destroy the process group, and first what holds it: the wrapper of the model, which is in reference cycles.

        A group that is left to the interpreter's end has threads that now and then meet an interpreter that is gone,
        and abort the process (gloo, PyTorch 2.11).
        """
        self.model = self.accelerator.unwrap_model(self.model)
        if self.place.world_size > 1:
            self.accelerator.free_memory()
            gc.collect()
        self.accelerator.end_training()

    # ---- steps

    def _train_step(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """One optimiser step. Returns detached scalars; nothing here waits for a GPU."""
        settings = self.config.training
        parts = _parts(batch, settings.accumulation)
        sizes = [self.task.num_examples(part) for part in parts]
        scalars: dict[str, Tensor] = {}
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True), start=1):
            share = size / sum(sizes)
            # gradients are exchanged once, after the last part
            alone = self.accelerator.no_sync(self.model) if number < len(parts) else contextlib.nullcontext()
            with alone:
                with self.accelerator.autocast():
                    out = self.task.training_step(self.model, part, self.step)
                self.accelerator.backward(out.loss if share == 1 else out.loss * share)
            for name, value in out.scalars.items():
                scalars[name] = value if share == 1 else scalars.get(name, 0.0) + value * share
        limit = settings.max_grad_norm if settings.max_grad_norm > 0 else float("inf")
        scalars["grad_norm"] = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        self.watch.note(self.step + 1, batch, scalars, self.model)
        self.optimizer.step()
        self.learning_rate.after_step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.accelerator.unwrap_model(self.model))
        self.step += 1
        return scalars

    def _require_parts(self) -> None:
        """Each process must have an example for every part of a batch."""
        settings = self.config.training
        share = settings.batch_size // self.place.world_size
        if settings.accumulation > 1 and share < settings.accumulation:
            raise UserError(
                f"training.accumulation {settings.accumulation} is more than the {share} examples that a process has "
                f"of training.batch_size {settings.batch_size}: lower the one or raise the other"
            )

    def _log_training(self, report: dict[str, Tensor]) -> None:
        """Write the step's scalars, and what has gathered since the last line."""
        self.watch.check()
        values = {name: float(value) for name, value in report.items()}
        values.update(self.task.interval_scalars(self.step))
        values["learning_rate"] = self.learning_rate.current
        values["epoch"] = self.task.loader.epoch
        self.follow.training(values)

    def _after_divergence(self) -> str:
        latest = self.checkpoints.finish()
        good = f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"
        return f"{good}; lower training.learning_rate, or look at the examples of the batch"

    def _validate(self) -> bool:
        """Validate; returns whether this is the smallest error so far."""
        self.watch.check()
        model = self._model_to_use()
        with torch.compiler.set_stance("force_eager"):  # whole utterances: a shape, and so a graph, for each batch
            scores = self.task.validate(model, self.step, self.follow.plots_dir)
        score = scores[self.task.monitor]
        improved = score < self.best
        self.best = min(self.best, score)
        self.learning_rate.after_validation(score)
        self.follow.validation(scores, model)
        return improved

    def _model_to_use(self) -> nn.Module:
        """What validation and checkpoints take: the average, where there is one."""
        return self.accelerator.unwrap_model(self.model) if self.average is None else self.average.module

    # ---- checkpoints

    def _save(self, *, best: bool) -> None:
        """Begin to write a checkpoint, with the random states of every process."""
        self.watch.check()
        states = accelerate.utils.gather_object([random_states()])
        if not self.accelerator.is_main_process:
            return
        state = {
            "version": __version__,
            "torch": str(torch.__version__),
            "step": self.step,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "data": self.task.loader.state_dict(),
            "task": self.task.state_dict(),
            "random": states,
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.average is not None:
            state["trained_weights"] = self.accelerator.unwrap_model(self.model).state_dict()
            state["averaged_steps"] = int(self.average.n_averaged)
        model, step = copy.deepcopy(self._model_to_use()), self.step
        self.checkpoints.save(
            step,
            lambda directory: self.task.save_model(directory, model, step),
            dump_yaml(self.config),
            snapshot(state),
            best=best,
        )

    def _restore_weights(self, state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """What must be in place before the model is wrapped. The model has the weights that inference takes."""
        optimizer.load_state_dict(state["optimizer"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        if "trained_weights" in state:
            model.load_state_dict(state["trained_weights"])
            if self.average is not None:
                self.average.n_averaged.fill_(state["averaged_steps"])

    def _restore_position(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.best = state["best"]
        self.task.load_state_dict(state["task"])
        self.task.loader.load_state_dict(state["data"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if len(state["random"]) == self.place.world_size:
            set_random_states(state["random"][self.place.rank])
        else:  # of another number of processes: new draws, not those of the first steps again
            seeds = np.random.SeedSequence((self.config.training.seed, self.step, self.place.rank))
            set_seed(int(seeds.generate_state(1)[0]))


def _average(model: nn.Module, decay: float) -> AveragedModel | None:
    """A moving average of a model's weights, with its buffers as they are; None without."""
    if decay == 0:
        return None
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.module.requires_grad_(False)
    return average


def _parts(batch: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Divide a batch, tensors and lists alike, into ``number`` parts of like size."""
    if number == 1:
        return [batch]
    size = len(next(value for value in batch.values() if isinstance(value, Tensor)))
    ends = [size * part // number for part in range(number + 1)]
    return [{key: value[start:end] for key, value in batch.items()} for start, end in itertools.pairwise(ends)]
