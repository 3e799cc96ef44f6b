"""Shards that lie elsewhere: behind http(s), or whatever a command prints, opened as webdataset opens them.

An address is ``http://host/dump/train`` or ``https://...``, to which ``/`` and the file's name are added, or has
``{name}`` in the name's place; or ``pipe:`` and a shell command that prints the file ``{name}``, for example
``pipe:ssh host cat /dump/train/{name}``. A pipe runs whatever it says: take one from nobody whom you would not give
your shell. Addresses come from the command line or the configuration only, never out of data.

Shards are fetched whole or not at all, once per machine, checked against the SHA-256 in ``index.json``, and kept in a
download folder up to a number of bytes, the least recently used being deleted first.
"""

import functools
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sqvae_speech.data.shard_downloads import DownloadFolder, RemoteFile, fetch_file
from sqvae_speech.data.shard_folder import INDEX_NAME, ShardFile, ShardFolder
from sqvae_speech.errors import UserError

SCHEMES = ("http://", "https://", "pipe:")
DOWNLOAD_BYTES = 100 * 10**9
_LIST_THREADS = 8

logger = logging.getLogger(__name__)
Index = TypeVar("Index", bound=ShardFolder)


def open_index(
    folder: str | Path | Index,
    kind: type[Index],
    *,
    download_dir: str | Path | None = None,
    download_bytes: int = DOWNLOAD_BYTES,
) -> Index:
    """Return the index of a folder of shards, local or remote.

    Args:
        folder: a path, or an address; an index is returned as it is.
        kind: what the shards hold: a class of indices.
        download_dir: where remote shards are kept; by default ``$XDG_CACHE_HOME/sqvae_speech/shards``, or
            ``~/.cache/sqvae_speech/shards``. All remote corpora and all processes of a machine may share it.
        download_bytes: of the shards in it, at most.

    Raises:
        UserError: as :meth:`ShardFolder.load`; an address of another kind; one that cannot be read; no curl.
    """
    if isinstance(folder, ShardFolder):
        return folder
    if not is_remote(folder):
        return kind.load(folder)
    return _fetch_index(kind, str(folder), Path(download_dir or default_download_dir()), download_bytes)


def is_remote(folder: str | Path) -> bool:
    """Whether this is an address rather than a path.

    Raises:
        UserError: an address of a kind that cannot be read.
    """
    text = str(folder)
    if isinstance(folder, Path):  # which has made one slash of two
        return False
    if text.startswith(SCHEMES):
        return True
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", text):
        raise UserError(
            f"{text} cannot be read; legal are a folder and addresses that begin with {', '.join(SCHEMES)}. Anything "
            'else is read through a command: "pipe:aws s3 cp s3://bucket/dump/train/{name} -"'
        )
    return False


def default_download_dir() -> Path:
    """``$XDG_CACHE_HOME/sqvae_speech/shards``, or the same in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "sqvae_speech" / "shards"


def file_address(address: str, name: str) -> str:
    """Address of a file of the folder at ``address``, what webdataset's ``gopen`` takes.

    Raises:
        UserError: a pipe without ``{name}``; a name that is none of a file.
    """
    if "/" in name or "\\" in name or name.startswith(".") or not name.isprintable():
        raise UserError(f"{address}: the index names a shard {name!r}, which is no file name; write the shards again")
    if address.startswith("pipe:"):
        if "{name}" not in address:
            raise UserError(f'{address!r} has no {{name}}; write for example "pipe:cat /data/dump/train/{{name}}"')
        return address.replace("{name}", shlex.quote(name))
    pattern = address if "{name}" in address else address.rstrip("/") + "/{name}"
    return pattern.replace("{name}", quote(name))


def _fetch_index(kind: type[Index], address: str, download_dir: Path, download_bytes: int) -> Index:
    if address.startswith("http") and shutil.which("curl") is None:
        raise UserError(
            f"{address}: webdataset reads http through curl, which is not installed; install curl, or give a "
            'command that does it: "pipe:wget -q -O - http://host/dump/train/{name}"'
        )
    source = file_address(address, INDEX_NAME)
    downloads = DownloadFolder(download_dir, download_bytes)
    # under the name of the address first: what the index is of shows only when it has been read
    listed = download_dir / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.{INDEX_NAME}"
    fetch_file(source, listed)
    index = kind.read(listed)
    for shard in index.shards:
        file_address(address, shard.name)
    key = hashlib.sha256(f"{address}\n{index.fingerprint}".encode()).hexdigest()[:16]
    folder = download_dir / key
    remote = replace(index, folder=folder, copies=RemoteShards(folder, index.shards, address, downloads))
    remote.save()
    return remote


@dataclass(frozen=True)
class RemoteShards:
    """Shards that lie elsewhere, and their copies here, which come as they are asked for.

    Attributes:
        folder: of the copies.
        shards: of the index.
        address: where the shards lie.
        downloads: the folder that all copies are in.
    """

    folder: Path
    shards: tuple[ShardFile, ...]
    address: str
    downloads: DownloadFolder = field(repr=False)

    def path(self, number: int) -> Path:
        """Path of a shard, which is fetched first when it is not here."""
        return self.downloads.path(self._file(number))

    def fetch_lists(self) -> None:
        """Fetch the shards' lists that are not here yet."""
        missing = [number for number in range(len(self.shards)) if not self._has_list(number)]
        with ThreadPoolExecutor(_LIST_THREADS) as pool:
            for _ in pool.map(self._fetch_list, missing):
                pass

    def fetch_all(self) -> None:
        """Fetch every shard that is not here."""
        missing = [shard.bytes for shard in self.shards if not (self.folder / shard.name).is_file()]
        if missing:
            logger.info("fetching %d shards (%.2f GB) of %s", len(missing), sum(missing) / 1e9, self.address)
        self.hold(range(len(self.shards)))
        for number in range(len(self.shards)):
            self.path(number)

    @property
    def spare_bytes(self) -> int:
        """What all shards leave of the limit of the download folder."""
        return self.downloads.limit - sum(shard.bytes for shard in self.shards)

    def require_room(self, window: int, num_windows: int) -> None:
        """Raise unless the download folder can hold so many windows of ``window`` shards at once, and one more.

        The one more is an epoch's last, for which so little may be left that a step reaches across it.
        """
        count = window * num_windows + len(self.shards) % window
        size = sum(sorted((shard.bytes for shard in self.shards), reverse=True)[:count])
        if size > self.downloads.limit:
            raise UserError(
                f"{num_windows} windows of shards of {self.address} take up to {size / 1e9:.3f} GB, and "
                f"{self.downloads.root} may hold {self.downloads.limit / 1e9:.3f} GB; raise data.download_gb, or "
                f"make the windows smaller (data.shuffle_shards, now {window})"
            )

    def hold(self, shards: Iterable[int], following: Iterable[int] = ()) -> None:
        """Say which shards are in use, and which will be next: see :meth:`DownloadFolder.hold`."""
        self.downloads.hold([self._file(int(n)) for n in shards], [self._file(int(n)) for n in following])

    def _file(self, number: int) -> RemoteFile:
        shard = self.shards[number]
        return RemoteFile(self.folder / shard.name, file_address(self.address, shard.name), shard.bytes, shard.sha256)

    def _has_list(self, number: int) -> bool:
        path = self.folder / self.shards[number].sidecar
        return path.is_file() and _lists(path.read_bytes(), self.shards[number])

    def _fetch_list(self, number: int) -> None:
        shard = self.shards[number]
        address = file_address(self.address, shard.sidecar)
        check = functools.partial(_lists, shard=shard)
        fetch_file(address, self.folder / shard.sidecar, check=check)


def _lists(contents: bytes, shard: ShardFile) -> bool:
    """Whether this is the list of the examples of a shard."""
    try:
        return json.loads(contents)["shard"] == vars(shard)
    except (ValueError, KeyError, TypeError):
        return False
