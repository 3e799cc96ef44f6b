"""Utterance, recording and speaker ids: the one place that says which are legal, and how to escape the others.

Kaldi separates columns by white space, webdataset cuts a member's name at its first dot, and a slash makes a folder:
an id with any of them would silently change its meaning on the way. Directories refuse such ids; a corpus whose file
names contain them goes through :func:`escape_id`, which loses nothing.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from sqvae_speech.errors import UserError

MAX_BYTES = 200  # an id becomes a file name (255 bytes on common file systems) with a suffix of ours behind it
_ESCAPE = re.compile("%([0-9A-F]{2})")


def _illegal(character: str) -> bool:
    # categories Z*: spaces and separators, C*: control, format and unassigned characters
    return character in "./\\" or character.isspace() or unicodedata.category(character)[0] in "ZC"


def escape_id(raw: str) -> str:
    """Return a legal id for any non-empty string: each illegal character, and ``%``, as ``%XX`` of its UTF-8 bytes.

    ``escape_id("a b.c") == "a%20b%2Ec"``. :func:`unescape_id` gives ``raw`` back. Legal ids without ``%`` are
    unchanged; applied twice it escapes twice.
    """
    return "".join(
        "".join(f"%{byte:02X}" for byte in character.encode())
        if character == "%" or _illegal(character)
        else character
        for character in raw
    )


def unescape_id(escaped: str) -> str:
    """Invert :func:`escape_id`. Raises :class:`UserError` when the ``%XX`` do not make valid UTF-8."""
    encoded = _ESCAPE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), escaped)  # stand-ins for single bytes
    try:
        return b"".join(
            bytes([ord(c) - 0xDC00]) if 0xDC00 <= ord(c) <= 0xDCFF else c.encode() for c in encoded
        ).decode()
    except UnicodeDecodeError:
        raise UserError(f"{escaped!r} is not an id made by escape_id: its %XX are not UTF-8") from None


def legal_id(name: str, where: str = "", kind: str = "utterance id") -> str:
    """Return the id of something that another tool calls ``name``: the name, escaped where it is not legal as it is.

    ``a.b`` becomes ``a%2Eb``, from which :func:`unescape_id` gives ``a.b`` back; ids of ours stay as they are.

    Args:
        name: any string.
        where: prefix of the message.
        kind: what the id names, for the message.

    Raises:
        UserError: an empty name, or one that is too long.
    """
    return check_id(escape_id(name) if any(map(_illegal, name)) else name, where, kind)


def speaker_first(speaker: str, name: str) -> str:
    """Return ``speaker-name``, or ``name`` if it begins so: Kaldi wants utterances in the order of speakers."""
    return name if name.startswith(f"{speaker}-") else f"{speaker}-{name}"


def check_id(name: str, where: str = "", kind: str = "utterance id") -> str:
    """Return ``name`` if it is a legal id, else raise :class:`UserError` saying what is wrong and what is legal.

    Args:
        name: the id.
        where: prefix of the message, for example ``"data/train/text:12"``.
        kind: what the id names, for the message.
    """
    prefix = f"{where}: " if where else ""
    if not name:
        raise UserError(f"{prefix}empty {kind}")
    bad = sorted({character for character in name if _illegal(character)})
    if bad:
        names = ", ".join({" ": "a space", ".": "a dot", "/": "a slash"}.get(c, repr(c)) for c in bad)
        raise UserError(
            f"{prefix}{kind} {name!r} contains {names}; ids may have no white space, dots, slashes or control "
            f"characters. Rename it, for example to {escape_id(name)!r} (sqvae_speech.data.ids.escape_id)"
        )
    if len(name.encode()) > MAX_BYTES:
        raise UserError(
            f"{prefix}{kind} {name[:40]!r}... has {len(name.encode())} bytes, at most {MAX_BYTES} are legal"
        )
    return name


def known_id(name: str, known: Iterable[str], folder: str | Path, noun: str) -> str:
    """Return ``name`` if a folder has it, else raise :class:`UserError` with the ids that are near it."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    what = f"near it are {', '.join(near)}" if near else f"there are {', '.join(known[:5])}, ..."
    raise UserError(f"{folder} has no {noun} {name!r}; {what} ({len(known)} {noun}s)")
