"""The training loop, on Accelerate: one process or many, counted in optimiser steps, whatever the task."""

import gc
import logging
import math
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from tqdm import tqdm

from sqvae_speech.config import dump_yaml
from sqvae_speech.errors import UserError
from sqvae_speech.training.checkpoint import Checkpoints, random_states, set_random_states, write_text
from sqvae_speech.training.metrics_log import MetricsLog
from sqvae_speech.training.optimization import LearningRateSchedule, build_optimizer
from sqvae_speech.training.task import Place, Task, TaskConfig
from sqvae_speech.training.tasks import task_class
from sqvae_speech.version import __version__

logger = logging.getLogger(__name__)


def train(config: TaskConfig, exp_dir: str | Path, *, resume: bool = True, progress: bool = True) -> Path:
    """Train a model.

    Args:
        config: the whole run; its ``task`` says of what.
        exp_dir: where checkpoints, metrics and plots go.
        resume: go on from ``checkpoints/latest`` when it is there; False refuses to touch a folder that has one.
        progress: show a progress bar.

    Returns:
        The last checkpoint.

    Raises:
        UserError: data that is missing or does not fit together, a batch that processes cannot share, a checkpoint
            of another model or data, a loss that is not finite.
    """
    return Trainer(config, Path(exp_dir), resume=resume, progress=progress).run()


class Trainer:
    """One run; :func:`train` is the way in."""

    def __init__(self, config: TaskConfig, exp_dir: Path, *, resume: bool, progress: bool):
        self.config = config
        self.exp_dir = exp_dir
        self.progress = progress
        settings = config.training
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            # static: every step uses every parameter in the same way
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        place = Place(self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device)
        self.task: Task = task_class(config.task)(config, place)
        self.checkpoints = Checkpoints(exp_dir, settings.keep_checkpoints, settings.keep_steps)
        resume_from = self.checkpoints.latest()
        if resume_from is not None and not resume:
            raise UserError(f"{exp_dir} has checkpoints of an earlier run: resume it, or give another folder")
        set_seed(settings.seed)
        model = self.task.build_model()
        self.step = 0
        self.best = float("inf")
        state = None
        if resume_from is not None:
            self.task.load_model(resume_from, model)
            logger.info("resuming from %s", resume_from)
            state = self.checkpoints.load_state(resume_from)
        else:
            self.task.initialize(model)
        optimizer = build_optimizer(model, settings, self.task.learning_rate_multipliers())
        self.schedule = LearningRateSchedule(optimizer, settings)
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # other noise on every process, the same each time
        set_seed(settings.seed + 1 + place.rank)
        if state is not None:
            self._restore(state)
        self.metrics: MetricsLog | None = None
        if self.accelerator.is_main_process:
            exp_dir.mkdir(parents=True, exist_ok=True)
            write_text(exp_dir / "config.yaml", dump_yaml(config))
            self.metrics = MetricsLog(exp_dir, self.task.curves, self.step)

    def run(self) -> Path:
        """Train from the current step to the last."""
        settings = self.config.training
        bar = tqdm(
            total=settings.num_steps,
            initial=self.step,
            unit="step",
            disable=not (self.progress and self.accelerator.is_main_process),
            dynamic_ncols=True,
        )
        batches = iter(self.task.loader)
        self.model.train()
        while self.step < settings.num_steps:
            report = self._train_step(next(batches))
            bar.update()
            if self.step % settings.log_interval == 0:
                self._log_training(report, bar)
            last = self.step == settings.num_steps
            improved = False
            if self.task.has_validation and (self.step % settings.valid_interval == 0 or last):
                improved = self._validate()
            if improved or last or self.step % settings.checkpoint_interval == 0 or self.step in settings.keep_steps:
                self._save(best=improved)
        bar.close()
        if self.metrics is not None:
            if settings.num_plots:
                self.metrics.plot()
            self.metrics.close()
        self.accelerator.wait_for_everyone()
        self._leave_processes()
        latest = self.checkpoints.latest()
        assert latest is not None
        return latest

    def _leave_processes(self) -> None:
        """Destroy the process group, and first what holds it: the wrapper of the model, which is in reference cycles.

        A group that is left to the interpreter's end has threads that now and then meet an interpreter that is gone,
        and abort the process (gloo, PyTorch 2.11).
        """
        self.model = self.accelerator.unwrap_model(self.model)
        self.accelerator.free_memory()
        gc.collect()
        self.accelerator.end_training()

    def _train_step(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """One optimiser step. Returns detached scalars; nothing here waits for the device."""
        settings = self.config.training
        with self.accelerator.autocast():
            out = self.task.training_step(self.model, batch, self.step)
        self.accelerator.backward(out.loss)
        limit = settings.max_grad_norm if settings.max_grad_norm > 0 else float("inf")
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.step += 1
        return {**out.scalars, "grad_norm": norm}

    def _log_training(self, report: dict[str, torch.Tensor], bar: tqdm) -> None:
        """Write the step's scalars and what has gathered since the last line; stop when the loss is not finite."""
        values = {name: float(value) for name, value in report.items()}
        values.update(self.task.interval_scalars(self.step))
        values["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        values["epoch"] = self.task.loader.epoch
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            raise UserError(
                f"training has diverged: at step {self.step} the loss is {values['loss']} and the gradient norm "
                f"{values['grad_norm']}; the last checkpoint is {self.checkpoints.latest()}; lower "
                "training.learning_rate, or look at the data"
            )
        bar.set_postfix(
            {name: format(values[name], form) for name, form in self.task.shown.items() if name in values}
        )
        if self.metrics is not None:
            self.metrics.write(self.step, "train", values)

    def _validate(self) -> bool:
        """Validate; returns whether this is the smallest error so far."""
        plots = self.metrics is not None and self.config.training.num_plots > 0
        scores = self.task.validate(
            self.accelerator.unwrap_model(self.model), self.step, self.exp_dir / "plots" if plots else None
        )
        self.schedule.validated(scores["loss"])
        improved = scores[self.task.monitor] < self.best
        self.best = min(self.best, scores[self.task.monitor])
        if self.metrics is not None:
            self.metrics.write(self.step, "valid", scores)
            if plots:
                self.metrics.plot()
        return improved

    def _save(self, *, best: bool) -> None:
        """Write a checkpoint, with the random states of every process."""
        states = accelerate.utils.gather_object([random_states()])
        if not self.accelerator.is_main_process:
            return
        state = {
            "version": __version__,
            "torch": str(torch.__version__),
            "step": self.step,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "data": self.task.loader.state_dict(),
            "task": self.task.state_dict(),
            "random": states,
        }
        model = self.accelerator.unwrap_model(self.model)
        self.checkpoints.save(
            self.step,
            lambda directory: self.task.save_model(directory, model, self.step),
            dump_yaml(self.config),
            state,
            best=best,
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.best = state["best"]
        self.task.load_state_dict(state["task"])
        self.task.loader.load_state_dict(state["data"])
        if len(state["random"]) == self.accelerator.num_processes:
            set_random_states(state["random"][self.accelerator.process_index])
