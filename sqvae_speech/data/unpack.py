"""Unpacking archives from elsewhere: nothing outside the folder, whole or not at all."""

import bz2
import errno
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from sqvae_speech.errors import UserError

# first bytes of a compressed tar -> what reads it
COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
DAMAGE = (
    *(tarfile.ReadError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, lzma.LZMAError),
    *(EOFError, RuntimeError, NotImplementedError),
)


def unpack(path: str | Path, folder: str | Path, *, progress: bool = True) -> None:
    """Unpack a tar (compressed or not) or a zip into ``folder``, beside what is there.

    All of it is unpacked beside its place first, and moved when it is whole. Files that are there already are
    replaced, folders are merged.

    Raises:
        UserError: a name that leads out of the folder, a link, a device; a damaged archive; too little room. Then
            nothing of it is in ``folder``.
    """
    path, folder = Path(path), Path(folder)
    temporary = unfinished(path, folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with tqdm(
            desc=f"unpacking {path.name}",
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            total=path.stat().st_size,
            disable=not progress,
        ) as bar:
            (_unzip if zipfile.is_zipfile(path) else _untar)(path, temporary, bar)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # bz2 says "Invalid data stream" with an OSError that the system knows nothing of
        if isinstance(error, DAMAGE) or (isinstance(error, OSError) and error.errno is None):
            raise UserError(f"{path} is damaged ({error}); remove it and fetch it again") from None
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path} cannot be unpacked into {folder}: {error.strerror}; make room") from None
        raise
    _move(temporary, folder)
    shutil.rmtree(temporary, ignore_errors=True)


def unfinished(path: Path, folder: Path) -> Path:
    """Return the folder that an archive is unpacked into at first: while it is there, the unpacking is not done."""
    return folder / f".{path.name}.unpacking"


def _move(source: Path, target: Path) -> None:
    """Rename what is in ``source`` to ``target``, going down only into folders that are there on both sides."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and (target / entry.name).is_dir():
            _move(entry, target / entry.name)
        else:
            os.replace(entry, target / entry.name)


def _refuse(path: Path, name: str, why: str) -> UserError:
    return UserError(f"{path}: {name!r} {why}; nothing was unpacked. Do not trust this archive; fetch it again")


def _leads_out(name: str) -> bool:
    """Whether a name is absolute or goes upwards, on this system or another."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or ":" in parts[0]


def _untar(path: Path, folder: Path, bar: tqdm) -> None:
    with path.open("rb") as raw:
        counted = _Counted(raw, bar)
        magic = raw.read(6)
        raw.seek(0)
        opener = next((opener for begin, opener in COMPRESSIONS.items() if magic.startswith(begin)), None)
        stream: Any = opener(counted) if opener else counted
        try:
            # "r|" goes through the file once; tarfile's "data" filter is a second lock
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if _leads_out(member.name):
                        raise _refuse(path, member.name, "leads out of the folder")
                    if not (member.isfile() or member.isdir()):
                        raise _refuse(path, member.name, "is a link or a device, which no corpus needs")
                    archive.extract(member, folder, filter="data")
        except tarfile.FilterError as error:
            raise _refuse(path, error.tarinfo.name, "leads out of the folder") from None
        while stream.read(1 << 20):  # the checksum of a compressed stream stands at its very end
            pass


class _Counted:
    """A file that moves a progress bar as it is read."""

    def __init__(self, file: IO[bytes], bar: tqdm):
        self.file, self.bar = file, bar

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.bar.update(len(data))
        return data


def _unzip(path: Path, folder: Path, bar: tqdm) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if _leads_out(member.filename):
                raise _refuse(path, member.filename, "leads out of the folder")
            mode = member.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
                raise _refuse(path, member.filename, "is a link or a device, which no corpus needs")
        needed, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{path} unpacks to {needed / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB free; make room"
            )
        for member in members:
            archive.extract(member, folder)  # compares each file's CRC-32
            bar.update(member.compress_size)
