r"""Kaldi archives of integer vectors and of NumPy arrays: their bytes, as Kaldi and kaldiio read and write them.

An entry is its key, a space, and a value. Of an int32 vector that is ``\0B``, then ``\4`` and the length, then ``\4``
and each element, integers little-endian of 4 bytes (Kaldi, ``base/io-funcs-inl.h``); of an array, kaldiio's ``NPY``,
a byte that counts those of the length, the length, and an ``.npy`` file of so many bytes. A table (``.scp``) gives
for each key the archive and the byte at which its value begins. Nothing is unpickled, which kaldiio would do for
entries that ask for it.
"""

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sqvae_speech.data.npy import npy_bytes
from sqvae_speech.errors import UserError
from sqvae_speech.units.forms.base import read_lines

_ELEMENT = np.dtype([("size", "i1"), ("value", "<i4")])


def write_entry(file: BinaryIO, key: str, value: bytes) -> int:
    """Append an entry; returns where its value begins."""
    file.write(f"{key} ".encode())
    place = file.tell()
    file.write(value)
    return place


def int_vector(values: np.ndarray) -> bytes:
    """(T,) integers below 2^31 as a value."""
    elements = np.empty(len(values), dtype=_ELEMENT)
    elements["size"], elements["value"] = 4, values
    return b"\0B\4" + struct.pack("<i", len(values)) + elements.tobytes()


def npy_value(array: np.ndarray) -> bytes:
    """An array as a value."""
    content = npy_bytes(array)
    size = (len(content).bit_length() + 7) // 8
    return b"NPY" + bytes([size]) + len(content).to_bytes(size, "little") + content


def read_value(file: BinaryIO, where: str) -> np.ndarray:
    """The value at the file's position: (T,) int32, or an array.

    Raises:
        UserError: it is neither, or ends too early.
    """
    kind = _read(file, 3, where)
    if kind == b"\0B\4":
        (length,) = struct.unpack("<i", _read(file, 4, where))
        if length < 0:
            raise UserError(f"{where}: a vector of length {length}; the archive is damaged")
        elements = np.frombuffer(_read(file, length * _ELEMENT.itemsize, where), dtype=_ELEMENT)
        if np.any(elements["size"] != 4):
            raise UserError(f"{where}: elements that are not int32; the archive is damaged, or of something else")
        return elements["value"].astype(np.int32)
    if kind == b"NPY":
        size = _read(file, 1, where)[0]
        content = _read(file, int.from_bytes(_read(file, size, where), "little"), where)
        try:
            return np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(f"{where}: not a readable NumPy array ({error})") from None
    raise UserError(
        f"{where}: neither an int32 vector nor a NumPy array (it begins with {kind!r}); text archives are the form "
        "kaldi"
    )


def read_table(scp: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """``(where, key, value)`` of every line of a ``.scp``, in its order.

    An archive that is not where the table says is looked for beside it: folders are moved.

    Raises:
        UserError: a line that is no ``key archive:place``, a missing archive, a bad value.
    """
    opened: Path | None = None
    with contextlib.ExitStack() as stack:
        for number, line in read_lines(scp):
            where = f"{scp}:{number}"
            key, _, rest = line.partition(" ")
            name, colon, place = rest.strip().rpartition(":")
            if not key or not colon or not place.isdigit():
                raise UserError(f"{where}: expected `utt archive.ark:123`; the line is {line[:80]!r}")
            path = next((p for p in (Path(name), scp.parent / Path(name).name) if p.is_file()), None)
            if path is None:
                raise UserError(f"{where}: {name} does not exist, and is not beside {scp.name}")
            if path != opened:
                stack.close()
                file = stack.enter_context(open(path, "rb"))
                opened = path
            file.seek(int(place))
            yield where, key, read_value(file, f"{where} ({path}:{place})")


def read_archive(ark: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """``(where, key, value)`` of every entry of an archive, in its order. Errors as :func:`read_table`."""
    if not ark.is_file():
        raise UserError(f"{ark} does not exist")
    with open(ark, "rb") as file:
        while True:
            start = file.tell()
            raw = bytearray()
            while (byte := file.read(1)) not in (b" ", b""):
                raw += byte
            if not byte:
                if raw:
                    raise UserError(f"{ark}:{start}: ends within a key; the archive is truncated")
                return
            try:
                key = raw.decode()
            except UnicodeDecodeError:
                raise UserError(f"{ark}:{start}: a key that is not UTF-8; not an archive") from None
            yield f"{ark}:{start}", key, read_value(file, f"{ark}:{file.tell()}")


def _read(file: BinaryIO, size: int, where: str) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise UserError(f"{where}: ends {size - len(data)} bytes too early; the archive is truncated")
    return data
