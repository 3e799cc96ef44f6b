"""Scores of an image model as values for JSON, as a Markdown table, and as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_loader import image_batches, to_pixels
from sqvae_speech.evaluation.image_scores import ImageScores
from sqvae_speech.evaluation.report_files import number
from sqvae_speech.plots import plot_code_histogram, plot_images, plot_maps

if TYPE_CHECKING:
    from sqvae_speech.models.pretrained_image import ImageBundle

GRID_IMAGES = 32
# What the tables' columns are.
_PIXELS = "the error is over all values in [0, 1] of the split, PSNR is its own, SSIM the mean of the images'."
_LABELS = "accuracy is over all pixels, intersection over union over all pixels of a class."
_CODES = (
    "Perplexity: of the codes chosen, and of the mean posterior. bit/image: codes at log2 of the codebook's size, "
    "and at the entropy of the codes chosen."
)


def image_report(bundle: "ImageBundle", model: str, scores: Sequence[ImageScores]) -> dict[str, Any]:
    """All scores of a model with what identifies it, ready for JSON."""
    return {
        "model": model,
        "step": bundle.step,
        "checkpoint": bundle.fingerprint,
        "images": bundle.image_spec.describe(),
        "codebook_size": bundle.model.codebook_size,
        "num_codebooks": bundle.model.num_codebooks,
        "splits": [split.to_dict() for split in scores],
    }


def image_markdown(values: dict[str, Any]) -> str:
    """The tables of an :func:`image_report`: a row a split, and of label maps a row a class."""
    columns = ["split", "images"]
    labels = values["splits"][0]["labels"] is not None
    columns += ["accuracy", "mIoU"] if labels else ["MSE (x 1e-3)", "PSNR (dB)", "SSIM", "LPIPS", "FID"]
    columns += ["perplexity", "of mean posterior", "usage", "bit/image", "at their entropy", "bit/dim"]
    rows = [_row(split) for split in values["splits"]]
    several = f" x {values['num_codebooks']}" if values["num_codebooks"] > 1 else ""
    text = (
        f"# Scores of {values['model']}\n\n"
        f"Step {values['step']}, checkpoint {values['checkpoint'][:12]}, {values['images']}, codebook of "
        f"{values['codebook_size']}{several}.\n\n{_table(columns, rows)}\n"
    )
    if labels:
        names = list(values["splits"][0]["labels"]["iou"])
        ious = [[name, *(number(s["labels"]["iou"][name], 4) for s in values["splits"])] for name in names]
        text += f"{_table(['IoU of class', *(split['split'] for split in values['splits'])], ious)}\n"
    return f"{text}Reconstructions of the most probable codes; {_LABELS if labels else _PIXELS} {_CODES}\n"


def _row(split: dict[str, Any]) -> list[str]:
    cells = [split["split"], f"{split['images']}"]
    if split["labels"] is not None:
        cells += [number(split["labels"][name], 4) for name in ("accuracy", "miou")]
    else:
        pixels = split["pixels"]
        cells += [f"{1000 * pixels['mse']:.3f}", f"{pixels['psnr']:.2f}"]
        cells += [number(pixels["ssim"], 4), number(pixels["lpips"], 4), number(pixels["fid"], 2)]
    codebook = split["codebook"]
    return [
        *cells,
        number(codebook["perplexity"], 1),
        number(codebook["perplexity_posterior"], 1),
        f"{codebook['used']}/{codebook['codebook_size']}",
        *(number(split[name], 1) for name in ("bits_per_image", "entropy_bits_per_image")),
        number(split["bits_per_dim"], 3),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def draw_scores(
    folder: str | Path, bundle: "ImageBundle", shards: str | Path, scores: ImageScores, device: torch.device
) -> list[Path]:
    """Draw reconstructions of some of a split's images, how its codes are used, and where in the image.

    Args:
        folder: for the PNGs.
        bundle: the model, on ``device``.
        shards: of the split.
        scores: of the split.
        device: where the model is.

    Returns:
        ``reconstructions_<split>.png``, ``codes_<split>.png`` and ``code_map_<split>.png``.
    """
    folder, split, model = Path(folder), scores.split, bundle.model
    index = ImageIndex.load(shards)
    entries = index.entries()
    entries = entries[:: max(1, len(entries) // GRID_IMAGES)][:GRID_IMAGES]  # not only the first class
    images = next(image_batches(index, GRID_IMAGES, entries))["image"].to(device)
    pair = {"image": images, "reconstruction": model.reconstruct(images)}
    maps = {
        "perplexity" if len(scores.position_perplexity) == 1 else f"perplexity, codebook {book}": values
        for book, values in enumerate(scores.position_perplexity)
    }
    return [
        plot_images(
            folder / f"reconstructions_{split}.png",
            {title: values if index.image_spec.is_labels else to_pixels(values) for title, values in pair.items()},
            num_classes=index.image_spec.num_classes or None,
        ),
        plot_code_histogram(folder / f"codes_{split}.png", scores.counts, split),
        plot_maps(folder / f"code_map_{split}.png", maps, title=f"codes of {split} at each position"),
    ]
