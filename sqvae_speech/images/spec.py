"""What fixes an array of image data: its size, its channels, and whether its values are levels or classes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sqvae_speech.config import from_dict, to_dict
from sqvae_speech.errors import UserError


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """The images of a data set, all alike: stated in its index, and in every model that was trained on it.

    Attributes:
        height: pixels.
        width: pixels.
        channels: 1 (grey) or 3 (RGB); 1 for label maps.
        num_classes: 0 for images; of label maps the number of classes, whose pixels are 0 to ``num_classes - 1``.

    Raises:
        ValueError: a size that is not positive, channels other than 1 and 3, or label maps of several channels.
    """

    height: int
    width: int
    channels: int = 3
    num_classes: int = 0

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"an image has at least one pixel, got {self.height} x {self.width}")
        if self.channels not in (1, 3):
            raise ValueError(f"an image has 1 (grey) or 3 (RGB) channels, got {self.channels}")
        if self.num_classes and (self.channels != 1 or not 2 <= self.num_classes <= 256):
            raise ValueError(
                f"a label map has one channel and 2 to 256 classes, got {self.channels} and {self.num_classes}"
            )

    @property
    def is_labels(self) -> bool:
        """Whether a pixel is a class rather than levels."""
        return self.num_classes > 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: (channels, height, width), of a label map (height, width)."""
        return (self.height, self.width) if self.is_labels else (self.channels, self.height, self.width)

    def describe(self) -> str:
        """A few words for messages: ``32 x 32 RGB``, ``64 x 64 label maps of 19 classes``."""
        kind = f"label maps of {self.num_classes} classes" if self.is_labels else {1: "grey", 3: "RGB"}[self.channels]
        return f"{self.height} x {self.width} {kind}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the image spec") -> "ImageSpec":
        """The inverse of :meth:`to_dict`; an unknown or missing setting is a :class:`UserError`."""
        return from_dict(cls, values, source)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values, for JSON and YAML."""
        return to_dict(self)

    def require_same(self, other: "ImageSpec", what: str, other_what: str) -> None:
        """Refuse to mix images of different kinds.

        Args:
            other: the spec that has to equal this one.
            what: whose spec this is, as the user knows it, such as ``"checkpoint exp/a"``.
            other_what: whose spec ``other`` is.

        Raises:
            UserError: they differ.
        """
        if self != other:
            raise UserError(
                f"{what} is of {self.describe()}, {other_what} of {other.describe()}: "
                "use data and models of the same kind of image"
            )
