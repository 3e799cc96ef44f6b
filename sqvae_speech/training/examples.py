"""What a task shows of its model at validation, beside numbers: pictures, sounds, histograms, texts."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Picture:
    """An image.

    Attributes:
        name: under which trackers file it.
        pixels: (height, width, 3) uint8.
    """

    name: str
    pixels: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sound:
    """A recording.

    Attributes:
        name: under which trackers file it.
        wav: (samples,) float32 in [-1, 1].
        sample_rate: in Hz.
    """

    name: str
    wav: np.ndarray[Any, Any]
    sample_rate: int


@dataclass(frozen=True)
class Histogram:
    """How often values occur.

    Attributes:
        name: under which trackers file it.
        values: (n,) numbers.
        weights: (n,) how often each occurred; None: once.
        bins: of equal width.
    """

    name: str
    values: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any] | None = None
    bins: int = 64

    def binned(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Counts (bins,) float64 and edges (bins + 1,) float64; values that are not finite are left out."""
        values = np.asarray(self.values, dtype=np.float64).ravel()
        weights = np.ones_like(values) if self.weights is None else np.asarray(self.weights, np.float64).ravel()
        finite = np.isfinite(values)
        counts, edges = np.histogram(values[finite], bins=self.bins, weights=weights[finite])
        return counts, edges


@dataclass(frozen=True)
class Text:
    """Words, such as what a language model continues a beginning with.

    Attributes:
        name: under which trackers file it.
        text: Markdown.
    """

    name: str
    text: str


Example = Picture | Sound | Histogram | Text
