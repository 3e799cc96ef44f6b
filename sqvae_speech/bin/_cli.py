"""What every verb shares: errors as messages, exit codes, logging."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from sqvae_speech.errors import UserError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to an option's help, where it says something that the help does not."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", ()) or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that prints the whole help with an error (exit code 2) and takes no abbreviations."""

    def __init__(self, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(**kwargs)

    def error(self, message: str):
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: error: {message}\n")


def run(verb: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a verb's ``main(argv)`` and turn what goes wrong into one message and an exit code.

    Returns:
        The verb's own code, 1 for a :class:`UserError` or an operating-system error (no such file, disk full),
        130 when interrupted. Anything else is a bug and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return verb(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader of our output has gone (| head): not an error, and nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1
