"""The few numbers that say how a run did, under names that are the same for every run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqvae_speech.reporting.run_folder import RunFolder, part

Better = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class KeyFigure:
    """A number worth the first look.

    Attributes:
        name: what it is.
        value: of it.
        form: how it is written.
        unit: after the number.
        better: which way is better; empty where neither is.
        note: on what it was measured, or of how many.
    """

    name: str
    value: float
    form: str = ".3g"
    unit: str = ""
    better: Better = ""
    note: str = ""

    @property
    def text(self) -> str:
        return format(self.value, self.form)


def key_figures(folder: RunFolder) -> list[KeyFigure]:
    """Those that there are: of the scores, else of the last validation, else of training; of the evaluation."""
    found = _of_scores(folder) or _of_validation(folder)
    return [*found, *_of_evaluation(folder)]


def _of_scores(folder: RunFolder) -> list[KeyFigure]:
    if folder.scores is None:
        return []
    split = _test_split(folder.scores["splits"])
    on = f"on {split.get('split', 'a held-out split')}"
    codebook = part(split, "codebook")
    size = codebook.get("codebook_size")
    figures: list[KeyFigure | None] = [
        _figure("reconstruction error", part(split, "error_db2").get("pooled"), ".2f", "dB²", "lower", on),
        _figure("PSNR", part(split, "pixels").get("psnr"), ".2f", "dB", "higher", on),
        _figure("SSIM", part(split, "pixels").get("ssim"), ".3f", "", "higher", on),
        _figure("mIoU", part(split, "labels").get("miou"), ".3f", "", "higher", on),
        _figure("bitrate", part(split, "units").get("bitrate"), ".0f", "bit/s", "", on),
        _figure("bits an image", split.get("entropy_bits_per_image"), ".0f", "", "", on),
        _figure("perplexity", codebook.get("perplexity"), ".0f", "", "", f"of {size} codes" if size else on),
        _figure("codes used", codebook.get("used"), ".0f", "", "", f"of {size}" if size else on),
    ]
    return [figure for figure in figures if figure is not None]


_VALIDATION: dict[str, tuple[str, str, str, Better]] = {
    "db2": ("reconstruction error", ".2f", "dB²", "lower"),
    "bits_per_unit": ("bits a unit", ".3f", "", "lower"),
    "accuracy": ("accuracy", ".3f", "", "higher"),
    "perplexity": ("perplexity", ".1f", "", ""),
    "usage": ("codebook usage", ".1%", "", ""),
}


def _of_validation(folder: RunFolder) -> list[KeyFigure]:
    run = folder.run
    scores, on = (run.scores, "at the last validation") if run.scores else (run.train, "at the end of training")
    found = [
        _figure(name, scores.get(key), form, unit, better, on)
        for key, (name, form, unit, better) in _VALIDATION.items()
    ]
    if "db2" not in scores:
        found.insert(0, _figure("squared error", scores.get("mse"), ".3g", "", "lower", on))
    return [figure for figure in found if figure is not None]


# spans and contexts of ABX, the most telling first; and of how many triplets one has to be to tell anything
_ABX = (("item", "within"), ("triphone", "within"), ("phone", "within"), ("phone", "any"), ("word", "any"))
_TRIPLETS = 1000


def telling_abx(scores: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Span and context of the ABX scores to show of all that there are: of enough triplets, if any are.

    Args:
        scores: of each representation, span -> condition -> score.

    Returns:
        None where there are none across speakers.
    """

    def triplets(choice: tuple[str, str]) -> int:
        found = (part(part(one, choice[0]), f"across_{choice[1]}").get("triplets", 0) for one in scores)
        return min(found, default=0)

    there = [choice for choice in _ABX if triplets(choice)]
    return next((choice for choice in there if triplets(choice) >= _TRIPLETS), there[0] if there else None)


def _of_evaluation(folder: RunFolder) -> list[KeyFigure]:
    values = folder.evaluation
    if values is None:
        return []
    codes = part(part(values, "representations"), "codes")
    abx = part(codes, "abx")
    span, context = telling_abx([abx]) or ("phone", "within")
    across = part(part(abx, span), f"across_{context}")
    on_abx = f"on codes; {span}, {'same' if context == 'within' else 'any'} context"
    probes = part(codes, "probes")

    def percent(score: Mapping[str, Any], key: str) -> float | None:
        value = score.get(key)
        return 100 * value if isinstance(value, (int, float)) else None

    speaker = part(probes, "speaker")
    chance = percent(speaker, "chance")
    figures = [
        _figure("ABX across speakers", percent(across, "error"), ".1f", "%", "lower", on_abx),
        _figure("PNMI", part(part(values, "units"), "unit_phone").get("pnmi"), ".3f", "", "higher", "unit and phone"),
        _figure("phone probe", percent(part(probes, "phone"), "accuracy"), ".1f", "%", "higher", "on codes"),
        _figure(
            "speaker probe",
            percent(speaker, "accuracy"),
            ".1f",
            "%",
            "lower",
            "on codes" if chance is None else f"on codes; chance {chance:.1f}%",
        ),
    ]
    return [figure for figure in figures if figure is not None]


def _figure(name: str, value: Any, form: str, unit: str, better: Better, note: str) -> KeyFigure | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return KeyFigure(name, float(value), form, unit, better, note)


def _test_split(splits: list[dict[str, Any]]) -> dict[str, Any]:
    """The one called test, else the last."""
    return next((split for split in splits if split.get("split") == "test"), splits[-1])
