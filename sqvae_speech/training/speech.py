"""Training of the speech model."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sqvae_speech.audio.vocoder import GriffinLim
from sqvae_speech.data.f0_tracks import F0Tracks
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import batch_utterances
from sqvae_speech.data.speaker_vectors import SpeakerVectorFile
from sqvae_speech.errors import UserError
from sqvae_speech.models.decoders import SpeakerVectors
from sqvae_speech.models.modules import length_mask
from sqvae_speech.models.pretrained import SpeechBundle, load_speech_model, save_speech_model
from sqvae_speech.models.speech import SpeechModel
from sqvae_speech.plots import mel_picture, plot_code_histogram, plot_mels
from sqvae_speech.quantization import CodebookStatistics
from sqvae_speech.training.autoencoder import AutoencoderTask
from sqvae_speech.training.examples import Example, Picture, Sound
from sqvae_speech.training.loading import load_index
from sqvae_speech.training.optimization import require_same_model
from sqvae_speech.training.speech_config import SpeechTrainConfig
from sqvae_speech.training.speech_loading import build_loader
from sqvae_speech.training.speech_validation import ShownUtterances, validate
from sqvae_speech.training.task import Place, StepOutput

VALID_FRAMES = 8000  # of a batch of validation, padding included
_SOUND_SECONDS = 8.0  # of an example: enough to hear, and of the time of a validation a small part
_GRIFFIN_LIM_ROUNDS = 30


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
        self.voices: SpeakerVectorFile | None = None
        if config.data.speaker_vectors is not None:
            self.voices = SpeakerVectorFile(config.data.speaker_vectors, config.model.speaker_vector_dim)
            self.speaker_vectors = self.voices.of_speakers(self.speakers, self.train_index)
        self.f0 = self._f0_tracks(config.data.f0, self.train_index)
        self.valid_f0 = self._f0_tracks(config.data.valid_f0, self.valid_index)
        quantizer = config.model.quantizer
        self.drawn: ShownUtterances | None = None  # of the last validation
        self.played: set[str] = set()
        self.statistics = CodebookStatistics(quantizer.codebook_size, quantizer.num_codebooks)

    @staticmethod
    def _f0_tracks(path: str | None, index: ShardIndex | None) -> F0Tracks | None:
        return None if path is None or index is None else F0Tracks(path, index)

    @property
    def has_validation(self) -> bool:
        return self.valid_index is not None

    def build_model(self) -> SpeechModel:
        try:
            model = SpeechModel(self.config.model, self.mel_spec.n_mels, len(self.speakers))
        except ValueError as error:
            raise UserError(f"model: {error}") from error
        if self.voices is not None:
            assert isinstance(model.decoder.speaker_embedding, SpeakerVectors)
            model.decoder.speaker_embedding.vectors.copy_(torch.from_numpy(self.speaker_vectors))
        return model.to(self.place.device)

    def regions(self, model: nn.Module) -> list[nn.Module]:
        assert isinstance(model, SpeechModel)
        return [*model.encoder.blocks, model.quantizer, *getattr(model.decoder, "blocks", ())]

    @property
    def fixed_shapes(self) -> bool:
        return self.config.data.batching == "crops"

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
        if self.voices is not None:
            of_speakers = self.speaker_vectors[batch["speaker"].numpy()]
            vectors = self.voices.of_utterances(batch["utterance_id"], of_speakers)
            batch = {**batch, "speaker": torch.from_numpy(vectors)}
        if self.f0 is not None:
            track = self.f0.cut(batch["utterance_id"], batch["first"].tolist(), batch["mel"].shape[-1])
            batch = {**batch, "f0": torch.from_numpy(track)}
        moved = self.transfer(batch)
        mel, speaker, lengths = moved["mel"], moved["speaker"], moved["lengths"]
        whole = bool((batch["lengths"] == mel.shape[-1]).all())  # masks cost time: only where something is padded
        f0 = {name: value for name, value in moved.items() if name == "f0"}
        out = model(mel, speaker, None if whole else lengths, **f0, temperature=self.temperature(step))
        scalars = {"loss": out.loss.detach(), "reconstruction_loss": out.reconstruction_loss, "mse": out.mse}
        scalars |= out.invariance
        return StepOutput(out.loss, {**scalars, **self.count(out.quantization, out.mask)})

    def validate(self, model: nn.Module, step: int, plots_dir: Path | None) -> dict[str, float]:
        assert isinstance(model, SpeechModel)
        assert self.valid_index is not None
        shown = ShownUtterances(self.config.training.num_plots) if plots_dir is not None else None
        scores = validate(
            model,
            batch_utterances(self.valid_index, max_frames=VALID_FRAMES, speakers=self.speakers),
            temperature=self.temperature(step),
            device=self.place.device,
            mel_spec=self.mel_spec,
            rank=self.place.rank,
            world_size=self.place.world_size,
            shown=shown,
            f0=self.valid_f0,
        )
        if shown is not None and plots_dir is not None:
            self.drawn = shown
            for name, target, reconstruction in shown.mels:
                pair = {f"{name}: target": target, "reconstruction": reconstruction}
                plot_mels(plots_dir / f"mel-{name}.png", pair, self.mel_spec)
            plot_code_histogram(plots_dir / "codes.png", shown.counts)
        return scores

    def examples(self, model: nn.Module, step: int) -> Iterator[Example]:
        """Log-mels and Griffin-Lim of the utterances drawn at the last validation, latents, use of the codes."""
        shown = self.drawn
        assert shown is not None
        vocoder = GriffinLim(self.mel_spec, n_iter=_GRIFFIN_LIM_ROUNDS)
        frames = int(_SOUND_SECONDS * self.mel_spec.frame_rate)
        for name, target, reconstruction in shown.mels:
            yield Picture(f"mel/{name}", mel_picture((target, reconstruction)))
            sounds = {"reconstruction": reconstruction}
            if name not in self.played:  # the target stays what it is
                self.played.add(name)
                sounds["target"] = target
            for kind, mel in sounds.items():
                # a network that has just begun may give anything
                wav = vocoder.vocode(mel[:, :frames].float().nan_to_num().clamp(-10.0, 10.0))
                yield Sound(f"{kind}/{name}", wav.numpy(), self.mel_spec.sample_rate)
        yield from shown.histograms()

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
