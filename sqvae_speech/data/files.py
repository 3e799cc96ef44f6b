"""Writing files beside their name, so that a name always stands for a whole file."""

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqvae_speech.errors import UserError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and rename it to ``path`` if the block succeeds.

    The temporary file is removed when the block raises. Its name is this machine's, process' and thread's alone, so
    two of them that write the same file leave one of the two whole, never a mixture.
    """
    writer = f"{socket.gethostname()}.{os.getpid()}.{threading.get_native_id()}"
    temporary = path.with_name(f".{path.name}.{writer}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` to fill, and rename it to ``path`` if the block succeeds.

    Raises:
        UserError: ``path`` exists and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is there already and not an empty folder; remove it, or give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        inside = Path(temporary) / "part"  # with the rights that a new folder has, which the temporary one has not
        inside.mkdir()
        yield inside
        os.replace(inside, path)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8, line ends as they are) to ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode())


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        UserError: the file does not exist or is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); convert it with iconv") from None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file with one a line; lines that a crash or a full disk has cut off are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows
