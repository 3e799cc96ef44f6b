"""Lists of recordings in the forms that published experiments use, read for the recordings' names alone."""

import json
from pathlib import Path
from typing import Any

from sqvae_speech.data.files import read_text
from sqvae_speech.errors import UserError

SUFFIXES = (".wav", ".txt", ".flac", ".npy")
FORMS = (
    'JSON, [["english/train/unit/S015_0361841101", 0.0, 3.2, ...], ...], csv with the same columns, or lines that '
    "begin with a recording's name"
)


def read_recording_list(path: str | Path, option: str) -> list[str]:
    """Return the names in a list, with the folders given and without a suffix, in its order, each once.

    An entry's first column is the name. In lists of bshall/ZeroSpeech the next two are where the recording begins and
    how long it is used; parts that do not begin at 0 are refused, not used as a whole.

    Args:
        path: the list; ``.json``, ``.csv``, or anything else for lines of words.
        option: what it was given with, for the messages.

    Raises:
        UserError: no such file, another form, no entry, a part of a recording.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        try:
            rows: list[Any] = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not JSON ({error}) ({option})") from None
        if not isinstance(rows, list):
            raise UserError(f"{path} holds no list; {option} takes {FORMS}")
        rows = [[row] if isinstance(row, str) else row for row in rows]
    else:
        separator = "," if suffix == ".csv" else None
        rows = [line.split(separator) for line in read_text(path).splitlines() if line.strip()]
    names: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        if not (isinstance(row, list) and row and isinstance(row[0], str) and row[0].strip()):
            raise UserError(f"{path}: entry {number}, {row!r}, has no name; {option} takes {FORMS}")
        if len(row) == 4 and _number(row[1]) not in (None, 0.0):
            raise UserError(
                f"{path}: entry {number} is a part of {row[0]}, from {row[1]} s; only whole recordings can be listed"
            )
        name = row[0].strip()
        names[name[: -len(Path(name).suffix)] if name.endswith(SUFFIXES) else name] = None
    if not names:
        raise UserError(f"{path} lists nothing; {option} takes {FORMS}")
    return list(names)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
