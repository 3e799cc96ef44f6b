"""Training of the image model."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_loader import ImageLoader, image_batches
from sqvae_speech.errors import UserError
from sqvae_speech.models.image import ImageModel
from sqvae_speech.models.pretrained_image import ImageBundle, load_image_model, save_image_model
from sqvae_speech.plots import image_picture, plot_code_histogram, plot_images
from sqvae_speech.quantization import CodebookStatistics
from sqvae_speech.training.autoencoder import AutoencoderTask, Shown
from sqvae_speech.training.examples import Example, Picture
from sqvae_speech.training.image_config import ImageTrainConfig
from sqvae_speech.training.loading import cache_bytes, load_index
from sqvae_speech.training.optimization import require_same_model
from sqvae_speech.training.task import Place, StepOutput
from sqvae_speech.training.validation import isolated_random_state, over_processes

VALID_BATCH = 100


class ImageTask(AutoencoderTask):
    """The image model on shards of images or label maps.

    Raises:
        UserError: shards that are missing or do not fit together, a batch that processes cannot share.
    """

    name = "image"
    config_class = ImageTrainConfig
    amount_unit = "images"
    monitor = "loss"  # as published; label maps have no error of values
    shown: ClassVar[dict[str, str]] = {"loss": ".0f", "mse": ".5f", "accuracy": ".4f", "perplexity": ".0f"}
    curves: ClassVar[dict[str, tuple[str, ...]]] = {
        **AutoencoderTask.curves,
        "error": ("train/mse", "valid/mse", "train/accuracy", "valid/accuracy"),
    }

    def __init__(self, config: ImageTrainConfig, place: Place):
        self.config = config
        self.place = place
        self.train_index = load_index(config.data, "train", ImageIndex)
        self.valid_index = load_index(config.data, "valid", ImageIndex) if config.data.valid else None
        self.spec = self.train_index.image_spec
        if self.valid_index is not None:
            self.spec.require_same(
                self.valid_index.image_spec, f"data.train {config.data.train}", f"data.valid {config.data.valid}"
            )
        self.loader = ImageLoader(
            self.train_index,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
            num_workers=config.data.num_workers,
            shuffle_shards=config.data.shuffle_shards,
            rank=place.rank,
            world_size=place.world_size,
            cache_bytes=cache_bytes(config.data),
        )
        self.drawn: ShownImages | None = None  # of the last validation
        quantizer = config.model.quantizer
        self.statistics = CodebookStatistics(quantizer.codebook_size, quantizer.num_codebooks)

    @property
    def has_validation(self) -> bool:
        return self.valid_index is not None

    def build_model(self) -> ImageModel:
        try:
            model = ImageModel(self.config.model, self.spec)
        except ValueError as error:
            raise UserError(f"model: {error}") from error
        return model.to(self.place.device)

    def training_latents(self, model: nn.Module) -> Generator[Tensor, None, None]:
        assert isinstance(model, ImageModel)
        for batch in self.loader:
            yield model.latents(batch["image"].to(self.place.device))[0].flatten(0, -2)

    def training_step(self, model: nn.Module, batch: dict[str, Any], step: int) -> StepOutput:
        out = model(self.transfer(batch)["image"], temperature=self.temperature(step))
        scalars = {"loss": out.loss.detach(), "reconstruction_loss": out.reconstruction_loss, **out.metrics}
        return StepOutput(out.loss, {**scalars, **self.count(out.quantization, None)})

    def validate(self, model: nn.Module, step: int, plots_dir: Path | None) -> dict[str, float]:
        assert isinstance(model, ImageModel)
        assert self.valid_index is not None
        shown = ShownImages(self.config.training.num_plots) if plots_dir is not None else None
        scores = validate(
            model,
            image_batches(self.valid_index, VALID_BATCH),
            temperature=self.temperature(step),
            place=self.place,
            shown=shown,
        )
        if shown is not None and plots_dir is not None:
            self.drawn = shown
            if shown.images:
                plot_images(plots_dir / "images.png", shown.images, num_classes=self.spec.num_classes or None)
            plot_code_histogram(plots_dir / "codes.png", shown.counts)
        return scores

    def examples(self, model: nn.Module, step: int) -> Iterator[Example]:
        """Images of the last validation and their reconstructions, latents, use of the codes."""
        shown = self.drawn
        assert shown is not None
        if shown.images:
            yield Picture("images", image_picture(shown.images, num_classes=self.spec.num_classes or None))
        yield from shown.histograms()

    def save_model(self, directory: Path, model: nn.Module, step: int) -> None:
        assert isinstance(model, ImageModel)
        save_image_model(directory, ImageBundle(model, step))

    def load_model(self, checkpoint: Path, model: nn.Module) -> None:
        bundle = load_image_model(checkpoint)
        bundle.image_spec.require_same(self.spec, f"checkpoint {checkpoint}", f"data.train {self.config.data.train}")
        require_same_model(checkpoint, bundle.model.config, self.config.model)
        model.load_state_dict(bundle.model.state_dict())


@dataclass
class ShownImages(Shown):
    """See :class:`sqvae_speech.training.autoencoder.Shown`.

    Attributes:
        images: ``target`` and ``reconstruction``, (n, C, H, W) in [0, 1] or (n, H, W) classes.
    """

    images: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
@isolated_random_state
def validate(
    model: ImageModel,
    batches: Iterable[dict[str, Any]],
    *,
    temperature: float,
    place: Place,
    shown: ShownImages | None = None,
) -> dict[str, float]:
    """Score a model in evaluation mode; always with the same draws, and without moving those of training.

    Args:
        model: not wrapped; left in the mode it was in.
        batches: of images.
        temperature: of the sampled pass; without effect on hard draws.
        place: this process, which takes batch ``rank`` and every ``world_size``-th after it.
        shown: takes what is to be drawn; None keeps nothing.

    Returns:
        ``loss`` and ``loss_sampled`` (codes drawn from the posterior) in nats per image; ``mse`` of pixel values in
        [0, 1] or ``accuracy`` of labels; ``perplexity`` and ``usage`` of hard choices, ``entropy`` of the posterior a
        position.
    """
    was_training = model.training
    model.eval()
    statistics = CodebookStatistics(model.codebook_size, model.num_codebooks)
    score = "accuracy" if model.spec.is_labels else "mse"
    totals = dict.fromkeys(("loss", "loss_sampled", score, "entropy", "examples"), 0.0)
    for batch in islice(batches, place.rank, None, place.world_size):
        images = batch["image"].to(place.device)
        out = model(images)
        sampled = model(images, temperature=temperature, sample=True)
        statistics.update(out.quantization.indices)
        for name, value in (
            ("loss", out.loss),
            ("loss_sampled", sampled.loss),
            (score, out.metrics[score]),
            ("entropy", out.quantization.metrics["entropy"]),
            ("examples", 1.0),
        ):
            totals[name] += float(value) * len(images)
        if shown is not None and not shown.images:
            kept = model.pixels(out.reconstruction[: shown.limit])
            shown.images = {"target": out.target[: shown.limit].cpu(), "reconstruction": kept.cpu()}
            z, log_var = model.latents(images)
            shown.latents, shown.log_var = z.cpu(), None if log_var is None else log_var.cpu()
    totals = over_processes(totals, statistics, place.world_size, place.device)
    if shown is not None:
        shown.counts = statistics.counts.cpu()
    model.train(was_training)
    count = max(totals.pop("examples"), 1.0)
    return {
        **{name: total / count for name, total in totals.items()},
        "perplexity": statistics.perplexity,
        "usage": statistics.usage,
    }
