"""``index.json`` of a folder of image shards: size and kind of the images, classes and labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from sqvae_speech.data.image_front_end import ImageFrontEnd
from sqvae_speech.data.shard_folder import ShardFile, ShardFolder
from sqvae_speech.images.spec import ImageSpec

IMAGES_PER_SHARD = 2000


class ImageEntry(NamedTuple):
    """An image in a shard.

    Attributes:
        image_id: its id.
        label: its class, None where none is known.
        shard: number of its shard in the index.
        image: offset and size in bytes of its ``.image.npy`` in the shard.
        json: the same of its ``.json``.
    """

    image_id: str
    label: str | None
    shard: int
    image: tuple[int, int]
    json: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ImageShard(ShardFile):
    """A finished shard of images.

    Attributes:
        images: how many are in it.
    """

    images: int

    @property
    def num_examples(self) -> int:
        return self.images


@dataclass(frozen=True, kw_only=True)
class ImageIndex(ShardFolder):
    """A folder of shards of images; see also :class:`sqvae_speech.data.shard_folder.ShardFolder`.

    Attributes:
        image_spec: what every image is.
        front_end: what was done to the corpus' images before.
        classes: of label maps, the names of the numbers; empty for images.
        labels: the images' own classes, sorted; empty where none are known.
    """

    kind: ClassVar[str] = "images"
    noun: ClassVar[str] = "image"
    list_name: ClassVar[str] = "images"
    id_name: ClassVar[str] = "image_id"
    version: ClassVar[int] = 1
    member: ClassVar[str] = "image.npy"
    shard_class: ClassVar[type[ShardFile]] = ImageShard

    shards: tuple[ImageShard, ...]
    image_spec: ImageSpec
    front_end: ImageFrontEnd
    classes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """Images in all shards."""
        return self.num_examples

    def description(self) -> dict[str, Any]:
        return {
            "image_spec": self.image_spec.to_dict(),
            "front_end": self.front_end.to_dict(),
            "classes": list(self.classes),
            "labels": list(self.labels),
        }

    @classmethod
    def fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "image_spec": ImageSpec.from_dict(values["image_spec"]),
            "front_end": ImageFrontEnd.from_dict(values["front_end"]),
            "classes": tuple(values["classes"]),
            "labels": tuple(values["labels"]),
        }

    def counts(self) -> dict[str, int]:
        return {"num_images": self.num_images}

    def settings(self) -> list[Any]:
        return [self.image_spec.to_dict(), list(self.classes)]

    def entries(self) -> list[ImageEntry]:
        """List all images, in the order of the manifest; fetches the shards' lists where they lie elsewhere.

        Raises:
            UserError: a shard's list does not belong to the shard of this index.
        """
        self.fetch_lists()
        return [
            ImageEntry(row[0], row[1], number, tuple(row[2]), tuple(row[3]))
            for number in range(len(self.shards))
            for row in self.rows(number)
        ]
