"""Training of a model from text to units of speech."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from sqvae_speech.config import to_dict
from sqvae_speech.data.texts import TextFrontEnd
from sqvae_speech.errors import UserError
from sqvae_speech.models.pretrained_text_to_units import (
    TextToUnitsBundle,
    build_text_to_units,
    load_text_to_units,
    save_text_to_units,
)
from sqvae_speech.models.text_to_units import TextToUnits
from sqvae_speech.training.optimization import require_same_model
from sqvae_speech.training.task import Place, StepOutput, Task
from sqvae_speech.training.text_to_units_config import TextToUnitsTrainConfig
from sqvae_speech.training.validation import isolated_random_state, sum_over_processes
from sqvae_speech.units.blocks import facts_of
from sqvae_speech.units.meta import require_same_units
from sqvae_speech.units.spoken_texts import SpokenTextLoader, SpokenTexts, read_spoken_texts
from sqvae_speech.units.store import UnitStore, read_units

_VALID_BATCH = 16


class TextToUnitsTask(Task):
    """A text-to-units model on a unit store with texts.

    Raises:
        UserError: stores that are missing, without texts, of images, or of different models; a batch that processes
            cannot share.
    """

    name = "text_to_units"
    config_class = TextToUnitsTrainConfig
    amount_unit = "runs"
    shown: ClassVar[dict[str, str]] = {"loss": ".3f", "codes": ".3f"}
    curves: ClassVar[dict[str, tuple[str, ...]]] = {
        "losses": ("train/loss", "valid/loss"),
        "parts": tuple(
            f"{split}/{part}" for part in ("codes", "durations", "counts", "times") for split in ("train", "valid")
        ),
    }

    def __init__(self, config: TextToUnitsTrainConfig, place: Place):
        self.config = config
        self.place = place
        data = config.data
        train = self._store("train")
        self.units = {**facts_of(train.meta), "deduplicated": True}
        self.front_end = TextFrontEnd(data.text, data.language)
        self.speakers: tuple[str, ...] = ()
        if data.condition == "speaker":
            self.speakers = tuple(sorted({units.speaker for units in train if units.speaker}))
            if not self.speakers:
                raise UserError(f"data.condition is speaker, but {train.name} knows no speakers; use none")
        spoken = read_spoken_texts(train, self.front_end, speakers=self.speakers)
        self.symbols = tuple(sorted({symbol for one in spoken for symbol in one.symbols}))
        size = train.meta.codebook_size
        texts = SpokenTexts(spoken, self.symbols, self.speakers, size, name=train.name)
        self.loader = SpokenTextLoader(
            texts,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
            rank=place.rank,
            world_size=place.world_size,
        )
        self.valid: SpokenTexts | None = None
        if data.valid:
            valid = self._store("valid")
            require_same_units(train.meta, valid.meta, f"data.train {train.name}", f"data.valid {valid.name}")
            held_out = read_spoken_texts(valid, self.front_end, self.symbols, self.speakers)
            self.valid = SpokenTexts(held_out, self.symbols, self.speakers, size, texts.aligner, valid.name)

    def _store(self, key: str) -> UnitStore:
        path = getattr(self.config.data, key)
        if not path:
            raise UserError(
                f"data.{key} is not set: give a unit store, e.g. --data.{key} exp/NAME/units/{key}.parquet"
            )
        store = read_units(path)
        if store.meta.shape is not None:
            raise UserError(f"{path} holds codes of images, which are not spoken; give units of speech")
        return store

    @property
    def has_validation(self) -> bool:
        return self.valid is not None

    @property
    def fixed_shapes(self) -> bool:
        return False

    def build_model(self) -> TextToUnits:
        return build_text_to_units(self.config.model, self.units, self.symbols, self.speakers).to(self.place.device)

    def regions(self, model: nn.Module) -> list[nn.Module]:
        assert isinstance(model, TextToUnits)
        return [*model.encoder.blocks, *model.decoder.blocks]

    def amount(self, batch: dict[str, Any]) -> int:
        return int((batch["durations"] > 0).sum())

    def training_step(self, model: nn.Module, batch: dict[str, Any], step: int) -> StepOutput:
        out = model(**self.transfer(batch))
        return StepOutput(out.loss, {name: value.detach() for name, value in out._asdict().items()})

    @torch.no_grad()
    @isolated_random_state
    def validate(self, model: nn.Module, step: int, plots_dir: Path | None) -> dict[str, float]:
        """The parts of the loss and their sum, nats, all codes hidden: what a text alone tells of its units."""
        assert isinstance(model, TextToUnits)
        assert self.valid is not None
        was_training = model.training
        model.eval()
        totals = dict.fromkeys(("loss", "counts", "times", "codes", "durations"), 0.0)
        for start in range(_VALID_BATCH * self.place.rank, len(self.valid), _VALID_BATCH * self.place.world_size):
            numbers = range(start, min(start + _VALID_BATCH, len(self.valid)))
            batch = self.transfer(self.valid.batch(numbers))
            out = model(**batch, hidden=batch["durations"] > 0)
            for name in totals:
                totals[name] += getattr(out, name).item() * len(numbers)
        model.train(was_training)
        totals = sum_over_processes(totals, self.place.world_size, self.place.device)
        return {name: total / len(self.valid) for name, total in totals.items()}

    def save_model(self, directory: Path, model: nn.Module, step: int) -> None:
        assert isinstance(model, TextToUnits)
        text = to_dict(self.front_end)
        save_text_to_units(directory, TextToUnitsBundle(model, self.units, text, self.symbols, self.speakers, step))

    def load_model(self, checkpoint: Path, model: nn.Module) -> None:
        bundle = load_text_to_units(checkpoint)
        ours = (self.units, to_dict(self.front_end), self.symbols, self.speakers)
        if (bundle.units, bundle.text, bundle.symbols, bundle.speakers) != ours:
            raise UserError(
                f"checkpoint {checkpoint} was trained on other units, texts or speakers than those of "
                f"{self.config.data.train}: resume on the same data, or start in another folder"
            )
        require_same_model(checkpoint, bundle.model.config, self.config.model)
        model.load_state_dict(bundle.model.state_dict())
