"""What is done to an image of a corpus before it is stored: cropping and scaling."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sqvae_speech.errors import UserError
from sqvae_speech.images.spec import ImageSpec


@dataclass(frozen=True)
class ImageFrontEnd:
    """What is done to every image of a corpus, in this order.

    Attributes:
        crop: side of the square, pixels, that is cut from the middle; None cuts nothing.
        scale: whether images of another size are scaled; otherwise they are refused. Scaling averages over the area
            that falls on a pixel (bilinear, antialiased, as the published code scales through torchvision); label
            maps take the nearest pixel.

    Raises:
        UserError: a setting that is not legal.
    """

    crop: int | None = None
    scale: bool = False

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < 1:
            raise UserError(f"crop of {self.crop} pixels; at least 1 is needed (--crop)")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageFrontEnd":
        """Rebuild from :meth:`to_dict`."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values, for JSON."""
        return dataclasses.asdict(self)

    def prepare(self, pixels: np.ndarray, spec: ImageSpec, name: str) -> np.ndarray:
        """Crop and scale an image.

        Args:
            pixels: (H, W) or (H, W, 3) uint8, with as many channels as ``spec`` says.
            spec: what it is to be.
            name: of the image, for messages.

        Returns:
            uint8 of ``spec.shape``.

        Raises:
            UserError: an image that is smaller than the crop, or of another size and not to be scaled.
        """
        from PIL import Image

        height, width = pixels.shape[:2]
        if self.crop is not None:
            if min(height, width) < self.crop:
                raise UserError(f"{name}: {height} x {width} pixels, --crop {self.crop} needs as many each way")
            top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
            pixels = pixels[top : top + self.crop, left : left + self.crop]
        if pixels.shape[:2] != (spec.height, spec.width):
            if not self.scale:
                raise UserError(
                    f"{name}: {height} x {width} pixels, the first image has {spec.height} x {spec.width}; give "
                    "--size to scale all to one size"
                )
            how = Image.Resampling.NEAREST if spec.is_labels else Image.Resampling.BILINEAR
            scaled = Image.fromarray(np.ascontiguousarray(pixels)).resize((spec.width, spec.height), how)
            pixels = np.asarray(scaled)
        return np.ascontiguousarray(pixels.reshape(spec.shape) if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def parse_size(words: Sequence[int]) -> tuple[int, int]:
    """Return height and width of ``--size``: one number for squares, or both."""
    if len(words) not in (1, 2):
        raise UserError(f"--size takes one number or height and width, not {len(words)} numbers")
    return words[0], words[-1]
