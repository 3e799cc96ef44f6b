"""Reading shards, whatever is in them: any example through memory maps, or all of them as a stream."""

import json
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sqvae_speech.data.npy import npy_header
from sqvae_speech.data.shard_folder import ShardFolder
from sqvae_speech.errors import UserError


class ShardMaps:
    """Random access to the contents of a folder of shards, through memory maps.

    Nothing is kept in this process but the maps; what is read often stays in the system's page cache, which all
    processes of a machine share.
    """

    def __init__(self, folder: ShardFolder):
        self.folder = folder
        self._maps: dict[int, np.ndarray] = {}

    def array(self, shard: int, place: tuple[int, int], shape: tuple[int, ...], dtype: str, name: str) -> np.ndarray:
        """Return an array of a shard, as a read-only view.

        Args:
            shard: number of the shard.
            place: offset and size of its ``.npy`` in the shard, bytes.
            shape: that it has to have.
            dtype: that it has to have.
            name: of the example, for messages.

        Raises:
            UserError: something else lies there.
        """
        offset, size = place
        content = self._map(shard)
        header = npy_header(shape, dtype)  # the same for equal shapes: compared, not parsed
        start = offset + len(header)
        end = start + int(np.prod(shape)) * np.dtype(dtype).itemsize
        if end != offset + size or end > len(content) or content[offset:start].tobytes() != header:
            what = self.folder.member.partition(".")[0]
            raise UserError(
                f"{self.folder.folder / self.folder.shards[shard].name} does not hold the {what} of {name!r} where "
                "its list says; remove it and run `sqvae-speech shards` again"
            )
        return content[start:end].view(dtype).reshape(shape)

    def meta(self, shard: int, place: tuple[int, int]) -> dict[str, Any]:
        """Return an example's ``json``, by its offset and size."""
        offset, size = place
        return json.loads(self._map(shard)[offset : offset + size].tobytes())

    def keep(self, shards: Collection[int]) -> None:
        """Let the maps of all other shards go; they are made again when they are read again."""
        self._maps = {number: content for number, content in self._maps.items() if number in shards}

    def _map(self, number: int) -> np.ndarray:
        content = self._maps.get(number)
        if content is None:
            content = map_file(self.folder.shard_path(number)).numpy()
            content.flags.writeable = False
            self._maps[number] = content
        return content


def map_file(path: Path) -> Tensor:
    """Map a file, which is not empty, into memory: (bytes,) uint8. What is written to it never reaches the file.

    The file is not held open: Python's own maps keep a descriptor each, of which a process may have 1024, and large
    corpora have more shards.
    """
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


def iterate_samples(index: ShardFolder) -> Iterator[dict[str, Any]]:
    """Yield all samples in the order of the manifest, as webdataset reads them: member's suffix -> bytes.

    Raises:
        UserError: a shard is missing or damaged.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    # webdataset's own steps, but without its URLs, in which a path with '#', '?' or '{' is another path, and without
    # its splitting: whichever process asks gets all.
    found = 0
    try:
        for sample in group_by_keys(tar_file_expander(_opened(index))):
            found += 1
            yield sample
    except (tarfile.ReadError, EOFError, ValueError) as error:
        raise damaged(index, error) from None
    if found != index.num_examples:
        raise UserError(
            f"the shards of {index.folder} hold {found} {index.noun}s, index.json says {index.num_examples}; "
            f"`sqvae-speech data validate {index.folder}` says which shard is damaged"
        )


def damaged(index: ShardFolder, error: Exception) -> UserError:
    """What to say of a shard in which something was found that should not be there."""
    return UserError(
        f"a shard of {index.folder} is damaged ({error}); `sqvae-speech data validate {index.folder}` says which"
    )


def _opened(index: ShardFolder) -> Iterator[dict[str, Any]]:
    for path in index.shard_paths():
        with path.open("rb") as stream:
            yield {"url": str(path), "stream": stream}
