"""Writing a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqvae_speech.errors import UserError


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; it becomes ``path`` when the block ends well, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text, whole or not at all, with the same line ends on every system."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def read_lines(path: str | os.PathLike, what: str) -> list[str]:
    """Read the lines of a UTF-8 text file, without line ends. Empty lines are kept.

    Raises:
        UserError: when the file is missing or is not text; ``what`` says what was expected of it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected {what}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); expected {what}") from None
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines
