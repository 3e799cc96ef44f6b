"""Training of our own vocoder."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import ShardReader
from sqvae_speech.data.shard_recordings import ShardRecordings
from sqvae_speech.data.wav_loader import WavReader, WavSegmentLoader
from sqvae_speech.errors import UserError
from sqvae_speech.models.discriminators import Discriminators
from sqvae_speech.models.inverse_stft import InverseStft
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, load_trained_vocoder, save_vocoder
from sqvae_speech.models.vocoder_model import VocoderModel
from sqvae_speech.models.vocoder_network import Polar
from sqvae_speech.plots import mel_picture, plot_mels
from sqvae_speech.training.adversary import Adversary
from sqvae_speech.training.examples import Example, Picture, Sound
from sqvae_speech.training.loading import cache_bytes, load_index
from sqvae_speech.training.optimization import require_same_model
from sqvae_speech.training.spectral_losses import MelDistance, MultiResolutionStft, PolarDistance
from sqvae_speech.training.task import Place, StepOutput, Task
from sqvae_speech.training.validation import sum_over_processes
from sqvae_speech.training.vocoder_config import VocoderTrainConfig

_SOUND_SECONDS = 8.0  # of an example


@dataclass(frozen=True)
class Heard:
    """An utterance of the last validation: its id, (T,) float32 wavs as recorded and as made."""

    utterance_id: str
    real: Tensor
    made: Tensor


class VocoderTask(Task):
    """The vocoder's network on shards of log-mels and the recordings behind them.

    Raises:
        UserError: shards or data directories that are missing or do not fit together, a MelSpec whose frames the
            network cannot take, a batch that processes cannot share.
    """

    name = "vocoder"
    config_class = VocoderTrainConfig
    amount_unit = "frames"
    shown: ClassVar[dict[str, str]] = {"loss": ".3f", "magnitude": ".3f", "turn": ".3f", "mel": ".3f"}
    curves: ClassVar[dict[str, tuple[str, ...]]] = {
        "losses": ("train/loss", "valid/loss"),
        "polar": ("train/magnitude", "valid/magnitude", "train/turn", "valid/turn"),
        "spectra": (
            "train/convergence",
            "valid/convergence",
            "train/log_magnitude",
            "valid/log_magnitude",
            "train/mel",
            "valid/mel",
        ),
        "adversary": ("train/adversarial", "train/features", "train/discriminators"),
    }

    def __init__(self, config: VocoderTrainConfig, place: Place):
        self.config = config
        self.place = place
        data, training = config.data, config.training
        self.train_index = load_index(data, "train", ShardIndex)
        self.mel_spec = self.train_index.mel_spec
        self.loader = WavSegmentLoader(
            self.train_index,
            recordings=self._data_dir("train"),
            allow_pipes=data.allow_pipes,
            batch_size=training.batch_size,
            segment_frames=data.segment_frames,
            seed=training.seed,
            num_workers=data.num_workers,
            shuffle_shards=data.shuffle_shards,
            rank=place.rank,
            world_size=place.world_size,
            cache_bytes=cache_bytes(data),
        )
        self.valid_index = load_index(data, "valid", ShardIndex) if data.valid else None
        if self.valid_index is not None:
            self.mel_spec.require_same(
                self.valid_index.mel_spec, f"data.train {data.train}", f"data.valid {data.valid}"
            )
            self.valid = ShardReader(self.valid_index)
            recordings = ShardRecordings(self.valid_index, self._data_dir("valid"), data.allow_pipes)
            self.valid_wavs = WavReader(self.valid, recordings)
        self.stft = MultiResolutionStft().to(place.device)
        self.mel = MelDistance(self.mel_spec).to(place.device)
        try:
            inverse = InverseStft(self.mel_spec, config.model.overlap)
        except UserError as error:
            raise UserError(f"data.train {data.train}: {error}") from None
        self.polar = PolarDistance(inverse).to(place.device)
        self.adversary: Adversary | None = None
        self.heard: list[Heard] = []

    def _data_dir(self, key: str) -> str:
        folder = getattr(self.config.data, f"{key}_recordings")
        if not folder:
            raise UserError(
                f"data.{key}_recordings is not set: give the data directory that data.{key} was made from, e.g. "
                f"--data.{key}_recordings data/{key}"
            )
        return folder

    @property
    def has_validation(self) -> bool:
        return self.valid_index is not None

    def build_model(self) -> VocoderModel:
        model = VocoderModel(self.config.model, self.mel_spec).to(self.place.device)
        training = self.config.training
        if training.adversarial_weight:
            discriminators = Discriminators(training.discriminator_channels).to(self.place.device)
            self.adversary = Adversary(discriminators, training.discriminator_learning_rate, self.place.world_size)
        return model

    def regions(self, model: nn.Module) -> list[nn.Module]:
        assert isinstance(model, VocoderModel)
        return list(model.network.blocks)

    def amount(self, batch: dict[str, Any]) -> int:
        return int(batch["lengths"].sum())

    def training_step(self, model: nn.Module, batch: dict[str, Any], step: int) -> StepOutput:
        training = self.config.training
        moved = self.transfer(batch)
        whole = bool((batch["lengths"] == batch["mel"].shape[-1]).all())  # masks cost time
        real, lengths = moved["wav"], moved["lengths"]
        synthesise = bool(training.stft_weight or training.mel_weight or self.adversary)
        said, made = model(moved["mel"], None if whole else lengths, synthesise)
        loss, scalars = self._distance(said, made, real, lengths)
        if self.adversary is not None and made is not None and step >= training.adversarial_start:
            scalars["discriminators"] = self.adversary.step(made, real)
            found = self.adversary.loss(made, real)
            loss = loss + training.adversarial_weight * found.adversarial + training.feature_weight * found.features
            scalars |= {"adversarial": found.adversarial.detach(), "features": found.features.detach()}
        return StepOutput(loss, {"loss": loss.detach(), **scalars})

    def _distance(
        self, said: Polar, made: Tensor | None, real: Tensor, lengths: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What training lowers, discriminators aside, and its parts, detached. Wavs (B, T)."""
        training = self.config.training
        with torch.autocast(real.device.type, enabled=False):
            polar = self.polar(said, real, lengths)
            loss = training.polar_weight * (polar.magnitude + polar.turn)
            parts = {"magnitude": polar.magnitude, "turn": polar.turn}
            if made is not None:
                stft, mel = self.stft(made, real), self.mel(made, real)
                loss = (
                    loss + training.stft_weight * (stft.convergence + stft.log_magnitude) + training.mel_weight * mel
                )
                parts |= {"convergence": stft.convergence, "log_magnitude": stft.log_magnitude, "mel": mel}
        return loss, {name: part.detach() for name, part in parts.items()}

    @torch.no_grad()
    def validate(self, model: nn.Module, step: int, plots_dir: Path | None) -> dict[str, float]:
        """Means over the utterances, each whole and alone: ``loss`` without discriminators, and its parts."""
        assert isinstance(model, VocoderModel)
        assert self.valid_index is not None
        was_training = model.training
        model.eval()
        shown = self.config.training.num_plots if plots_dir is not None else 0
        self.heard = []
        totals = dict.fromkeys(("loss", "magnitude", "turn", "convergence", "log_magnitude", "mel"), 0.0)
        entries = self.valid_index.entries()
        for number in range(self.place.rank, len(entries), self.place.world_size):
            mel = torch.from_numpy(self.valid.utterance(entries[number]).mel)[None].to(self.place.device)
            said, made = model(mel)
            real = torch.from_numpy(self.valid_wavs.wav(number)[: made.shape[1]])[None].to(self.place.device)
            lengths = torch.tensor([mel.shape[2]], device=mel.device)
            loss, scalars = self._distance(said, made, real, lengths)
            for name, value in {"loss": loss, **scalars}.items():
                totals[name] += value.item()
            if len(self.heard) < shown:
                self.heard.append(Heard(entries[number].utterance_id, real[0].cpu(), made[0].cpu()))
        totals = sum_over_processes(totals, self.place.world_size, self.place.device)
        model.train(was_training)
        if plots_dir is not None:
            for one in self.heard:
                pair = {f"{one.utterance_id}: recording": self._log_mel(one.real), "made": self._log_mel(one.made)}
                plot_mels(plots_dir / f"mel-{one.utterance_id}.png", pair, self.mel_spec)
        return {name: total / len(entries) for name, total in totals.items()}

    def examples(self, model: nn.Module, step: int) -> Iterator[Example]:
        """The first utterances of the last validation, and what became of them."""
        samples = int(_SOUND_SECONDS * self.mel_spec.sample_rate)
        for one in self.heard:
            yield Picture(f"mel/{one.utterance_id}", mel_picture((self._log_mel(one.real), self._log_mel(one.made))))
            for kind, wav in (("recording", one.real), ("made", one.made)):
                sound = wav[:samples].nan_to_num().clamp(-1.0, 1.0).numpy()
                yield Sound(f"{kind}/{one.utterance_id}", sound, self.mel_spec.sample_rate)

    def _log_mel(self, wav: Tensor) -> Tensor:
        """(n_mels, frames) on the CPU, natural logarithms."""
        return self.mel.log_mel(wav[None].to(self.place.device))[0].cpu()

    def save_model(self, directory: Path, model: nn.Module, step: int) -> None:
        assert isinstance(model, VocoderModel)
        save_vocoder(directory, VocoderBundle(model, step))

    def load_model(self, checkpoint: Path, model: nn.Module) -> None:
        bundle = load_trained_vocoder(checkpoint)
        folder = self.config.data.train
        bundle.mel_spec.require_same(self.mel_spec, f"checkpoint {checkpoint}", f"data.train {folder}")
        ours = self.config.model
        # rounds have nothing to learn: they may be others
        theirs = replace(bundle.model.config, rounds=ours.rounds, mel_rounds=ours.mel_rounds)
        require_same_model(checkpoint, theirs, ours)
        model.load_state_dict(bundle.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {} if self.adversary is None else self.adversary.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Discriminators that the checkpoint does not have begin anew."""
        if self.adversary is not None and state:
            self.adversary.load_state_dict(state)
