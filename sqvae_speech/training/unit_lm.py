"""Training of a language model over units, of speech or of images."""

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from sqvae_speech.errors import UserError
from sqvae_speech.models.pretrained_unit_lm import UnitLmBundle, load_unit_lm, save_unit_lm
from sqvae_speech.models.unit_lm import UnitLm
from sqvae_speech.training.optimization import require_same_model
from sqvae_speech.training.task import Place, StepOutput, Task
from sqvae_speech.training.unit_lm_config import UnitLmTrainConfig
from sqvae_speech.training.validation import sum_over_processes
from sqvae_speech.units.blocks import UnitBlockLoader, UnitSequences, facts_of, vocabulary_of
from sqvae_speech.units.lm_scoring import sequence_nats
from sqvae_speech.units.meta import require_same_units
from sqvae_speech.units.store import UnitStore, read_units


class UnitLmTask(Task):
    """A transformer on a unit store.

    Raises:
        UserError: stores that are missing or hold units of different models, a batch that processes cannot share.
    """

    name = "unit_lm"
    config_class = UnitLmTrainConfig
    monitor = "bits_per_unit"
    amount_unit = "units"
    shown: ClassVar[dict[str, str]] = {"loss": ".3f", "bits_per_unit": ".3f"}
    curves: ClassVar[dict[str, tuple[str, ...]]] = {
        "losses": ("train/loss", "valid/loss"),
        "perplexity": ("train/perplexity", "valid/perplexity"),
    }

    def __init__(self, config: UnitLmTrainConfig, place: Place):
        self.config = config
        self.place = place
        train = self._store("train")
        self.meta = train.meta
        self.vocabulary = vocabulary_of(train.meta)
        self.conditions: tuple[str, ...] = ()
        if config.data.condition == "speaker":
            self.conditions = tuple(sorted({units.speaker for units in train if units.speaker}))
            if not self.conditions:
                raise UserError(f"data.condition is speaker, but {train.name} knows no speakers; use none")
        self.loader = UnitBlockLoader(
            UnitSequences(train, self.vocabulary, self.conditions),
            context=config.model.context,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
            rank=place.rank,
            world_size=place.world_size,
        )
        self.valid: UnitSequences | None = None
        if config.data.valid:
            valid = self._store("valid")
            require_same_units(train.meta, valid.meta, f"data.train {train.name}", f"data.valid {valid.name}")
            self.valid = UnitSequences(valid, self.vocabulary, self.conditions)

    def _store(self, key: str) -> UnitStore:
        path = getattr(self.config.data, key)
        if not path:
            raise UserError(
                f"data.{key} is not set: give a unit store, e.g. --data.{key} exp/NAME/units/{key}.parquet"
            )
        return read_units(path)

    @property
    def has_validation(self) -> bool:
        return self.valid is not None

    def build_model(self) -> UnitLm:
        try:
            model = UnitLm(self.config.model, self.vocabulary, len(self.conditions))
        except ValueError as error:
            raise UserError(f"model: {error}") from error
        return model.to(self.place.device)

    def amount(self, batch: dict[str, Any]) -> int:
        return batch["positions"].numel()

    def training_step(self, model: nn.Module, batch: dict[str, Any], step: int) -> StepOutput:
        batch = self.transfer(batch)
        out = model(**batch)
        units = ((batch["targets"][..., 0] >= 0) & (batch["targets"][..., 0] < self.vocabulary.end)).sum()
        bits = out.nats.sum() / units.clamp(min=1) / math.log(2)
        return StepOutput(
            out.loss, {"loss": out.loss.detach(), "bits_per_unit": bits, "perplexity": torch.exp2(bits)}
        )

    def validate(self, model: nn.Module, step: int, plots_dir: Path | None) -> dict[str, float]:
        """``loss``, nats a prediction (unit or end); ``bits_per_unit``, ends included; ``perplexity``, 2 to them."""
        assert isinstance(model, UnitLm)
        assert self.valid is not None
        place = self.place
        nats = float(sequence_nats(model, self.valid, rank=place.rank, world_size=place.world_size).sum())
        nats = sum_over_processes({"nats": nats}, place.world_size, place.device)["nats"]
        bits = nats / math.log(2) / max(int(self.valid.lengths.sum()), 1)
        return {
            "loss": nats / int(self.valid.predictions.sum()),
            "bits_per_unit": bits,
            "perplexity": 2.0**bits,
        }

    def save_model(self, directory: Path, model: nn.Module, step: int) -> None:
        assert isinstance(model, UnitLm)
        save_unit_lm(directory, UnitLmBundle(model, facts_of(self.meta), self.conditions, step))

    def load_model(self, checkpoint: Path, model: nn.Module) -> None:
        bundle = load_unit_lm(checkpoint)
        train = self.config.data.train
        if bundle.units != facts_of(self.meta) or bundle.conditions != self.conditions:
            raise UserError(
                f"checkpoint {checkpoint} was trained on other units than those of {train}: resume on the same data, "
                "or start in another folder"
            )
        require_same_model(checkpoint, bundle.model.config, self.config.model)
        model.load_state_dict(bundle.model.state_dict())
