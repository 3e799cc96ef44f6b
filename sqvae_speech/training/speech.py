"""Training of the speech model."""

from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import batch_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.models.modules import length_mask
from sqvae_speech.models.pretrained import SpeechBundle, load_speech_model, save_speech_model
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.quantization import CodebookStatistics
from sqvae_speech.training.autoencoder import AutoencoderTask
from sqvae_speech.training.loading import load_index
from sqvae_speech.training.optimization import require_same_model
from sqvae_speech.training.speech_config import SpeechTrainConfig
from sqvae_speech.training.speech_loading import build_loader
from sqvae_speech.training.speech_validation import validate
from sqvae_speech.training.task import Place, StepOutput

VALID_FRAMES = 8000  # of a batch of validation, padding included


class SpeechTask(AutoencoderTask):
    """The speech model on shards of log-mels.

    Raises:
        UserError: shards that are missing or do not fit together, a batch that processes cannot share.
    """

    name = "speech"
    config_class = SpeechTrainConfig
    amount_unit = "frames"
    shown: ClassVar[dict[str, str]] = {"loss": ".0f", "mse": ".4f", "perplexity": ".0f"}
    curves: ClassVar[dict[str, tuple[str, ...]]] = {
        **AutoencoderTask.curves,
        "error": ("train/mse", "valid/mse", "valid/db2"),
    }

    def __init__(self, config: SpeechTrainConfig, place: Place):
        self.config = config
        self.place = place
        self.train_index = load_index(config.data, "train", ShardIndex)
        self.valid_index = load_index(config.data, "valid", ShardIndex) if config.data.valid else None
        self.mel_spec = self.train_index.mel_spec
        self.speakers = self.train_index.speakers
        if self.valid_index is not None:
            self.mel_spec.require_same(
                self.valid_index.mel_spec, f"data.train {config.data.train}", f"data.valid {config.data.valid}"
            )
        self.loader = build_loader(
            self.train_index, config.data, config.training, rank=place.rank, world_size=place.world_size
        )
        quantizer = config.model.quantizer
        self.statistics = CodebookStatistics(quantizer.codebook_size, quantizer.num_codebooks)

    @property
    def has_validation(self) -> bool:
        return self.valid_index is not None

    def build_model(self) -> SpeechModel:
        try:
            model = SpeechModel(self.config.model, self.mel_spec.n_mels, len(self.speakers))
        except ValueError as error:
            raise UserError(f"model: {error}") from error
        return model.to(self.place.device)

    def training_latents(self, model: nn.Module) -> Generator[Tensor, None, None]:
        assert isinstance(model, SpeechModel)
        device = self.place.device
        for batch in self.loader:
            lengths = batch["lengths"].to(device)
            z = model.latents(batch["mel"].to(device), lengths)[0]
            yield z[length_mask(model.num_units(lengths), z.shape[1])]

    def amount(self, batch: dict[str, Any]) -> int:
        return int(batch["lengths"].sum())

    def training_step(self, model: nn.Module, batch: dict[str, Any], step: int) -> StepOutput:
        device = self.place.device
        mel, speaker, lengths = (batch[name].to(device, non_blocking=True) for name in ("mel", "speaker", "lengths"))
        whole = bool((batch["lengths"] == mel.shape[-1]).all())  # masks cost time: only where something is padded
        out = model(mel, speaker, None if whole else lengths, temperature=self.temperature(step))
        scalars = {"loss": out.loss.detach(), "reconstruction_loss": out.reconstruction_loss, "mse": out.mse}
        return StepOutput(out.loss, {**scalars, **self.count(out.quantization, out.mask)})

    def validate(self, model: nn.Module, step: int, plots_dir: Path | None) -> dict[str, float]:
        assert isinstance(model, SpeechModel)
        assert self.valid_index is not None
        return validate(
            model,
            batch_utterances(self.valid_index, max_frames=VALID_FRAMES, speakers=self.speakers),
            temperature=self.temperature(step),
            device=self.place.device,
            mel_spec=self.mel_spec,
            rank=self.place.rank,
            world_size=self.place.world_size,
            plots_dir=plots_dir,
            num_plots=self.config.training.num_plots,
        )

    def save_model(self, directory: Path, model: nn.Module, step: int) -> None:
        assert isinstance(model, SpeechModel)
        save_speech_model(directory, SpeechBundle(model, self.mel_spec, self.speakers, step))

    def load_model(self, checkpoint: Path, model: nn.Module) -> None:
        bundle = load_speech_model(checkpoint)
        folder = self.config.data.train
        bundle.mel_spec.require_same(self.mel_spec, f"checkpoint {checkpoint}", f"data.train {folder}")
        if bundle.speakers != self.speakers:
            raise UserError(
                f"checkpoint {checkpoint} knows the speakers {', '.join(bundle.speakers)}; {folder} has "
                f"{', '.join(self.speakers)}: resume on the same data, or start in another folder"
            )
        require_same_model(checkpoint, bundle.model.config, self.config.model)
        model.load_state_dict(bundle.model.state_dict())
