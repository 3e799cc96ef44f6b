"""The packed cache: the numbers of all examples of a folder of shards in one file, which processes map into memory.

``<shards>/.cache/<fingerprint>.<suffix>`` holds the numbers, one example after the other, and the same name with
``.json`` after it says what they are; both can be deleted at any time and are made again by the first process that
wants them.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sqvae_speech.data.files import whole_file, write_text
from sqvae_speech.data.shard_folder import ShardFolder, read_json
from sqvae_speech.data.shard_maps import map_file
from sqvae_speech.errors import UserError

logger = logging.getLogger(__name__)

FOLDER = ".cache"
VERSION = 1
SPARE_BYTES = 1 << 28  # of the disk, that a cache leaves free
# What a file system answers that cannot lock files: then every process may make the cache, and the last one's stays.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def default_limit() -> int:
    """Bytes of a cache at most unless told otherwise: half of this machine's memory, so that it stays in it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True)
class PackedFile:
    """The packed file of a folder of shards.

    Attributes:
        index: of local shards, all there.
        what: its numbers, in a word that is also the file's suffix: ``frames``, ``wavs``, ``pixels``.
        size: bytes of the file.
        facts: what the numbers are, besides: shape, type.
        pieces: yields the numbers in the order of the manifest, C-contiguous arrays of any sizes.
    """

    index: ShardFolder
    what: str
    size: int
    facts: Mapping[str, Any]
    pieces: Callable[[], Iterable[np.ndarray]] = field(repr=False)

    def open(self, limit: int) -> np.ndarray | None:
        """Map the file, making it first when there is none.

        One process makes it while the others wait, on any number of nodes; it appears whole or not at all. Files of
        other fingerprints, of what the shards were before, are removed.

        Args:
            limit: bytes of the file at most.

        Returns:
            (size,) uint8. None when it does not fit into ``limit`` or on the disk, or the folder cannot be written
            to; said once, as information: the shards will do.

        Raises:
            UserError: a shard is damaged.
        """
        if self.size > limit:
            self._without(f"the {self.what} take {self.size / 1e9:.2f} GB, the limit is {limit / 1e9:.2f} GB")
            return None
        path = self.path
        try:
            if not self._is_whole() and not self._make():
                return None
            return map_file(path).numpy()
        except OSError as error:
            self._without(f"{path.parent}: {error.strerror or error}")
            return None

    @property
    def path(self) -> Path:
        return self.index.folder / FOLDER / f"{self.index.fingerprint[:32]}.{self.what}"

    @property
    def description_path(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def _without(self, reason: str) -> None:
        logger.info("%s: no packed cache (%s); reading the shards", self.index.folder, reason)

    def _description(self) -> dict[str, Any]:
        return {"version": VERSION, "fingerprint": self.index.fingerprint, **self.facts, "bytes": self.size}

    def _is_whole(self) -> bool:
        try:
            if self.path.stat().st_size != self.size:
                return False
            return read_json(self.description_path) == self._description()
        except (OSError, UserError):
            return False

    def _make(self) -> bool:
        """Make the file, or wait until another process has; False when the disk has no room."""
        folder = self.path.parent
        folder.mkdir(exist_ok=True)
        with _locked(folder / "lock"):
            if not self._is_whole():
                free = shutil.disk_usage(folder).free
                if free < self.size + SPARE_BYTES:
                    self._without(f"they take {self.size / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB left")
                    return False
                self._write()
        return True

    def _write(self) -> None:
        path = self.path
        for old in path.parent.iterdir():  # also what a killed process left half-written
            earlier = old.suffixes == [".json"]  # of an earlier version
            if earlier or old.suffix == ".part" or old.name.endswith((f".{self.what}", f".{self.what}.json")):
                old.unlink(missing_ok=True)
        logger.info("packing the %s of %s (%.2f GB), once", self.what, self.index.folder, self.size / 1e9)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            for piece in self.pieces():
                file.write(piece.data)
            file.flush()
            os.fsync(file.fileno())
        write_text(self.description_path, json.dumps(self._description(), indent=1) + "\n")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time, on any node that shares the file system."""
    with path.open("ab") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("%s: waiting for the process that is at it", path.parent)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
