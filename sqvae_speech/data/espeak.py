"""The espeak-ng engine of the package ``espeakng-loader``, through ctypes: opened, and as a source of phones.

Constants are those of espeak-ng's public header, ``speak_lib.h``.
"""

import ctypes
import functools
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from sqvae_speech.errors import UserError

_SYNCHRONOUS, _PHONEMES_AS_IPA, _DO_NOT_EXIT, _UTF8 = 2, 0x0003, 0x8000, 1
_AS_IPA = 0x02  # of espeak_TextToPhonemes, whose separator of phones stands in the second byte
_SEPARATOR = "_"
_LONGEST_PATH = 150  # bytes: espeak cuts its data path at 160 and then finds nothing
STRESS = "ˈˌ"


class Engine(NamedTuple):
    """``library``, initialised; ``data``, the folder of its voices; ``kept``, what must live as long as they do."""

    library: ctypes.CDLL
    data: str
    kept: TemporaryDirectory[str] | None


def open_engine(purpose: str) -> Engine:
    """Load and initialise espeak-ng, whose state is one for the whole process.

    Args:
        purpose: what needs it, the beginning of the message when it is not installed.

    Raises:
        UserError: it is not installed, or does not load.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            f"{purpose} espeak-ng, and the package espeakng-loader is not installed; install it with: "
            "pip install espeakng-loader (or 'sqvae_speech[tts]')"
        ) from None
    path, data = espeakng_loader.get_library_path(), str(espeakng_loader.get_data_path())
    again = "install it again with: pip install --force-reinstall espeakng-loader"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"cannot load espeak-ng from {path} ({error}); {again}") from None
    kept = None
    if len(os.fsencode(data)) > _LONGEST_PATH:
        kept = TemporaryDirectory(prefix="espeak-")
        link = Path(kept.name, "data")
        link.symlink_to(data)
        data = str(link)
    options = _PHONEMES_AS_IPA | _DO_NOT_EXIT
    if library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), options) < 0:
        raise UserError(f"espeak-ng cannot read its voices in {data}; {again}")
    return Engine(library, data, kept)


@functools.cache
def _shared_engine() -> Engine:
    engine = open_engine("phones of a text come from")
    engine.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    return engine


def phones_of(text: str, language: str) -> list[list[str]]:
    """The phones of a text, IPA without stress, as espeak-ng reads it aloud: numbers and abbreviations too.

    Args:
        text: a sentence, or several.
        language: espeak-ng's name of it, ``en-us``.

    Returns:
        Phones of each clause; between clauses a speaker would pause.

    Raises:
        UserError: espeak-ng is not installed, or knows no such language.
    """
    library = _shared_engine().library
    if library.espeak_SetVoiceByName(language.encode()) != 0:
        raise UserError(
            f"espeak-ng has no language {language!r}; names are such as en-us, en-gb, de, fr, es (data.language)"
        )
    data = ctypes.create_string_buffer(text.encode())
    rest = ctypes.c_void_p(ctypes.addressof(data))
    clauses = []
    while rest.value:
        said = library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _AS_IPA | ord(_SEPARATOR) << 8) or b""
        words = said.decode().replace(" ", _SEPARATOR).split(_SEPARATOR)
        if phones := [phone for word in words if (phone := word.strip().translate(dict.fromkeys(map(ord, STRESS))))]:
            clauses.append(phones)
    return clauses
