"""Packages that only some scores need."""

import importlib
import sys
from types import ModuleType

from sqvae_speech.errors import UserError


def require(module: str, extra: str, what: str, *, since: tuple[int, int] = (3, 11)) -> ModuleType:
    """Import a package of an extra.

    Args:
        module: to import.
        extra: of this package that brings it.
        what: needs it, for the message.
        since: the oldest Python that has it.

    Raises:
        UserError: it is not installed; the message says how to install it, or that this Python is too old.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if sys.version_info[:2] < since:
            wanted, found = (".".join(map(str, version)) for version in (since, sys.version_info[:2]))
            remedy = (
                f"which needs Python {wanted} or newer, and this is {found}: make an environment with Python {wanted}"
            )
        else:
            remedy = f"which is not there ({error}): pip install 'sqvae_speech[{extra}]'"
        raise UserError(f"{what} needs the package {module}, {remedy}") from None
