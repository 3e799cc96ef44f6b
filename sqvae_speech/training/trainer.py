"""The training loop of the speech model, on Accelerate: one process or many, counted in optimiser steps."""

import dataclasses
import gc
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from tqdm import tqdm

from sqvae_speech.config import dump_yaml
from sqvae_speech.data.reader import batch_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.models.pretrained import SpeechBundle, load_speech_model
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.quantization import CodebookStatistics
from sqvae_speech.training.checkpoint import Checkpoints, random_states, set_random_states, write_text
from sqvae_speech.training.config import SpeechTrainConfig
from sqvae_speech.training.loading import build_loader, load_index
from sqvae_speech.training.metrics_log import MetricsLog
from sqvae_speech.training.optimization import (
    build_optimizer,
    build_scheduler,
    start_codebook_from_data,
    temperature_at,
)
from sqvae_speech.training.validation import validate
from sqvae_speech.version import __version__

logger = logging.getLogger(__name__)


def train(config: SpeechTrainConfig, exp_dir: str | Path, *, resume: bool = True, progress: bool = True) -> Path:
    """Train a speech model.

    Args:
        config: the whole run.
        exp_dir: where checkpoints, metrics and plots go.
        resume: go on from ``checkpoints/latest`` when it is there; False refuses to touch a folder that has one.
        progress: show a progress bar.

    Returns:
        The last checkpoint.

    Raises:
        UserError: shards that are missing or do not fit together, a batch that processes cannot share, a checkpoint
            of another model or MelSpec, a loss that is not finite.
    """
    return Trainer(config, Path(exp_dir), resume=resume, progress=progress).run()


class Trainer:
    """One run; :func:`train` is the way in."""

    def __init__(self, config: SpeechTrainConfig, exp_dir: Path, *, resume: bool, progress: bool):
        self.config = config
        self.exp_dir = exp_dir
        self.progress = progress
        settings = config.training
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            # static: every step uses every parameter in the same way
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        self.train_index = load_index(config.data, "train")
        self.valid_index = load_index(config.data, "valid") if config.data.valid else None
        self.mel_spec = self.train_index.mel_spec
        self.speakers = self.train_index.speakers
        if self.valid_index is not None:
            self.mel_spec.require_same(
                self.valid_index.mel_spec, f"data.train {config.data.train}", f"data.valid {config.data.valid}"
            )
        self.checkpoints = Checkpoints(exp_dir, settings.keep_checkpoints, settings.keep_steps)
        resume_from = self.checkpoints.latest()
        if resume_from is not None and not resume:
            raise UserError(f"{exp_dir} has checkpoints of an earlier run: resume it, or give another folder")
        self.loader = build_loader(
            self.train_index,
            config.data,
            settings,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        set_seed(settings.seed)
        model = self._build_model()
        self.step = 0
        self.best = float("inf")
        state = None
        if resume_from is not None:
            state = self._load_model(resume_from, model)
        elif settings.codebook_init == "data":
            self._start_codebook(model)
        if self.accelerator.num_processes > 1 and self.accelerator.device.type == "cuda":
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # gloo on CPUs has none
        optimizer = build_optimizer(model, settings)
        self.scheduler = build_scheduler(optimizer, settings)
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.statistics = CodebookStatistics(model.codebook_size, model.num_codebooks)
        # other noise on every process, the same each time
        set_seed(settings.seed + 1 + self.accelerator.process_index)
        if state is not None:
            self._restore(state)
        self.metrics: MetricsLog | None = None
        if self.accelerator.is_main_process:
            exp_dir.mkdir(parents=True, exist_ok=True)
            write_text(exp_dir / "config.yaml", dump_yaml(config))
            self.metrics = MetricsLog(exp_dir, self.step)

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
        batches = iter(self.loader)
        self.model.train()
        while self.step < settings.num_steps:
            report = self._train_step(next(batches))
            bar.update()
            if self.step % settings.log_interval == 0:
                self._log_training(report, bar)
            last = self.step == settings.num_steps
            improved = False
            if self.valid_index is not None and (self.step % settings.valid_interval == 0 or last):
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
        device = self.accelerator.device
        mel, speaker, lengths = (batch[name].to(device, non_blocking=True) for name in ("mel", "speaker", "lengths"))
        whole = bool((batch["lengths"] == mel.shape[-1]).all())  # masks cost time: only where something is padded
        temperature = temperature_at(settings, self.step)
        with self.accelerator.autocast():
            out = self.model(mel, speaker, None if whole else lengths, temperature=temperature)
        self.accelerator.backward(out.loss)
        limit = settings.max_grad_norm if settings.max_grad_norm > 0 else float("inf")
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.statistics.update(out.quantization.indices, out.mask)
        self.step += 1
        return {
            "loss": out.loss.detach(),
            "reconstruction_loss": out.reconstruction_loss,
            "mse": out.mse,
            "grad_norm": norm,
            **{
                f"batch_{name}" if name in ("perplexity", "usage") else name: value
                for name, value in out.quantization.metrics.items()
            },
        }

    def _log_training(self, report: dict[str, torch.Tensor], bar: tqdm) -> None:
        """Write the step's scalars, and the codebook's use since the last line; stop when the loss is not finite."""
        self.statistics.synchronize()
        values = {name: float(value) for name, value in report.items()}
        values["perplexity"], values["usage"] = self.statistics.perplexity, self.statistics.usage
        values["temperature"] = temperature_at(self.config.training, self.step)
        values["learning_rate"] = float(self.scheduler.get_last_lr()[0])
        values["epoch"] = self.loader.epoch
        self.statistics.reset()
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            raise UserError(
                f"training has diverged: at step {self.step} the loss is {values['loss']} and the gradient norm "
                f"{values['grad_norm']}; the last checkpoint is {self.checkpoints.latest()}; lower "
                "training.learning_rate, or look at the data"
            )
        bar.set_postfix(loss=f"{values['loss']:.0f}", mse=f"{values['mse']:.4f}", ppl=f"{values['perplexity']:.0f}")
        if self.metrics is not None:
            self.metrics.write(self.step, "train", values)

    def _validate(self) -> bool:
        """Validate; returns whether this is the smallest error so far."""
        assert self.valid_index is not None
        settings = self.config.training
        scores = validate(
            self.accelerator.unwrap_model(self.model),
            self._validation_batches(),
            temperature=temperature_at(settings, self.step),
            device=self.accelerator.device,
            mel_spec=self.mel_spec,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            plots_dir=self.exp_dir / "plots" if self.metrics is not None and settings.num_plots else None,
            num_plots=settings.num_plots,
        )
        improved = scores["mse"] < self.best
        self.best = min(self.best, scores["mse"])
        if self.metrics is not None:
            self.metrics.write(self.step, "valid", scores)
            if settings.num_plots:
                self.metrics.plot()
        return improved

    def _validation_batches(self) -> Iterator[dict[str, Any]]:
        assert self.valid_index is not None
        return iter(batch_utterances(self.valid_index, max_frames=8000, speakers=self.speakers))

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
            "scheduler": self.scheduler.state_dict(),
            "data": self.loader.state_dict(),
            "statistics": self.statistics.counts,
            "random": states,
        }
        self.checkpoints.save(self._bundle(), dump_yaml(self.config), state, best=best)

    def _bundle(self) -> SpeechBundle:
        return SpeechBundle(self.accelerator.unwrap_model(self.model), self.mel_spec, self.speakers, self.step)

    def _build_model(self) -> SpeechModel:
        try:
            model = SpeechModel(self.config.model, self.mel_spec.n_mels, len(self.speakers))
        except ValueError as error:
            raise UserError(f"model: {error}") from error
        return model.to(self.accelerator.device)

    def _start_codebook(self, model: SpeechModel) -> None:
        """Start the codes at latents of the first batches, and the loader again."""
        start = self.loader.state_dict()
        # crops are taken as they are, the padding of utterances shorter than a crop included
        whole = self.config.data.batching == "utterances"
        device = self.accelerator.device
        batches = ((batch["mel"].to(device), batch["lengths"].to(device) if whole else None) for batch in self.loader)
        start_codebook_from_data(model, batches, torch.Generator().manual_seed(self.config.training.seed))
        batches.close()
        self.loader.load_state_dict(start)

    def _load_model(self, checkpoint: Path, model: SpeechModel) -> dict[str, Any]:
        """Copy a checkpoint's weights into ``model``; refuse one that is of something else. Returns its state."""
        bundle = load_speech_model(checkpoint)
        folder = self.config.data.train
        bundle.mel_spec.require_same(self.mel_spec, f"checkpoint {checkpoint}", f"data.train {folder}")
        if bundle.speakers != self.speakers:
            raise UserError(
                f"checkpoint {checkpoint} knows the speakers {', '.join(bundle.speakers)}; {folder} has "
                f"{', '.join(self.speakers)}: resume on the same data, or start in another folder"
            )
        if bundle.model.config != self.config.model:
            ours, theirs = _flat(self.config.model), _flat(bundle.model.config)
            lines = [
                f"  model.{key}: {theirs[key]} there, {ours[key]} here" for key in ours if ours[key] != theirs[key]
            ]
            raise UserError(
                f"checkpoint {checkpoint} is of another model:\n"
                + "\n".join(lines)
                + "\nresume with the same model settings, or start in another folder"
            )
        model.load_state_dict(bundle.model.state_dict())
        logger.info("resuming from %s", checkpoint)
        return self.checkpoints.load_state(checkpoint)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.best = state["best"]
        self.statistics.counts = state["statistics"].to(self.accelerator.device)
        self.loader.load_state_dict(state["data"])
        if len(state["random"]) == self.accelerator.num_processes:
            set_random_states(state["random"][self.accelerator.process_index])


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dataclasses as ``{"section.key": value}``."""
    values: dict[str, Any] = {}
    for key, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            values.update(_flat(value, f"{prefix}{key}."))
        else:
            values[prefix + key] = value
    return values
