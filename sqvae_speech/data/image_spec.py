"""What every image of a folder of shards is, and how it was made from the image of the corpus."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sqvae_speech.data.image_dir import check_classes
from sqvae_speech.errors import UserError

CHANNELS = {1: "L", 3: "RGB"}  # channels -> Pillow's name


@dataclass(frozen=True)
class ImageSpec:
    """Size and kind of images.

    Attributes:
        height, width: pixels.
        channels: 1 (grey) or 3 (red, green, blue); 1 for label maps.
        classes: names of the classes of label maps, in the order of their numbers; empty for images.
        crop: side of the square, pixels, that was cut from the middle of each image first; None cut nothing.

    Raises:
        UserError: a number that is not legal.
    """

    height: int
    width: int
    channels: int = 3
    classes: tuple[str, ...] = ()
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(f"images of {self.height} x {self.width} pixels; at least 1 x 1 is needed (--size)")
        if self.channels not in CHANNELS:
            raise UserError(f"images of {self.channels} channels; legal are 1 (grey) and 3 (colours) (--channels)")
        if self.classes and self.channels != 1:
            raise UserError(f"label maps of {self.channels} channels; they have 1: leave out --channels")
        if self.crop is not None and self.crop < 1:
            raise UserError(f"crop of {self.crop} pixels; at least 1 is needed (--crop)")
        check_classes(self.classes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageSpec":
        """Rebuild from :meth:`to_dict`."""
        return cls(**{**values, "classes": tuple(values["classes"])})

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain values, for JSON."""
        return {**dataclasses.asdict(self), "classes": list(self.classes)}

    @property
    def is_map(self) -> bool:
        """Whether these are label maps."""
        return bool(self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the stored array: (channels, height, width); (height, width) of a label map."""
        return (self.height, self.width) if self.is_map else (self.channels, self.height, self.width)

    @property
    def mode(self) -> str:
        """Pillow's name of the channels."""
        return CHANNELS[self.channels]

    def __str__(self) -> str:
        what = f"label maps of {len(self.classes)} classes" if self.is_map else f"{self.mode} images"
        return f"{what}, {self.height} x {self.width}"

    def require_same(self, other: "ImageSpec", ours: str, theirs: str) -> None:
        """Raise :class:`UserError` with both values when two kinds of images differ.

        Args:
            other: to compare with.
            ours: what this is of, for the message.
            theirs: what ``other`` is of.
        """
        for name, value in vars(self).items():
            if value != getattr(other, name):
                raise UserError(
                    f"{ours} has images with {name} {value}, {theirs} with {name} {getattr(other, name)}: they do "
                    "not fit together; write the shards with the same options"
                )

    def apply(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Crop and scale an image.

        Scaling averages over the area that falls on a pixel (bilinear, antialiased, as the published code scales
        through torchvision); label maps take the nearest pixel.

        Args:
            pixels: (H, W) or (H, W, 3) uint8, with the channels that :attr:`channels` says.
            name: of the image, for messages.

        Returns:
            uint8 of :attr:`shape`.

        Raises:
            UserError: an image that is smaller than the crop.
        """
        from PIL import Image

        height, width = pixels.shape[:2]
        if self.crop is not None:
            if min(height, width) < self.crop:
                raise UserError(f"{name}: {height} x {width} pixels, --crop {self.crop} needs as many each way")
            top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
            pixels = pixels[top : top + self.crop, left : left + self.crop]
        if pixels.shape[:2] != (self.height, self.width):
            how = Image.Resampling.NEAREST if self.is_map else Image.Resampling.BILINEAR
            scaled = Image.fromarray(np.ascontiguousarray(pixels)).resize((self.width, self.height), how)
            pixels = np.asarray(scaled)
        return np.ascontiguousarray(pixels.reshape(self.shape) if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def parse_size(words: Sequence[int]) -> tuple[int, int]:
    """Return height and width of ``--size``: one number for squares, or both."""
    if len(words) not in (1, 2):
        raise UserError(f"--size takes one number or height and width, not {len(words)} numbers")
    return words[0], words[-1]
