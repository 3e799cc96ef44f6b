"""Small corpora and shards of images, for the tests of the image half."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from sqvae_speech.data.image_dir import ImageDir, ImageItem
from sqvae_speech.data.image_index import ImageIndex
from sqvae_speech.data.image_shards import write_image_shards


def random_pixels(*shape: int, seed: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format, written from its description."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def make_image_dir(
    folder: Path, count: int = 10, shape: tuple[int, ...] = (6, 4, 3), classes: tuple[str, ...] = ()
) -> np.ndarray:
    """Write a data directory of the rows of an array, with two labels; returns the array."""
    pixels = random_pixels(count, *shape, high=len(classes) or 256)
    path = folder.parent / f"{folder.name}.npy"
    folder.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, pixels)
    items = [ImageItem(f"i{row:03d}", f"{path}:{row}", "ab"[row % 2]) for row in range(count)]
    ImageDir(items, classes).write(folder)
    return pixels


def make_image_shards(folder: Path, count: int = 10, *, images_per_shard: int = 4, **options) -> ImageIndex:
    """Write a folder of shards of random images."""
    data = folder.parent / "data" / folder.name
    make_image_dir(data, count, **options)
    return write_image_shards(data, folder, images_per_shard=images_per_shard, progress=False)


def stored(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) as shards have it."""
    return pixels.transpose(0, 3, 1, 2)
