"""What a page is made of, and how it becomes one HTML file that needs no other file, no network and no script."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from sqvae_speech.data.files import write_text
from sqvae_speech.reporting.charts import Figure
from sqvae_speech.reporting.drawing import colour_class
from sqvae_speech.reporting.examples import Example
from sqvae_speech.reporting.key_figures import KeyFigure
from sqvae_speech.reporting.tables import Table
from sqvae_speech.version import __version__


@dataclass(frozen=True)
class Missing:
    """What a section could also show.

    Attributes:
        what: a sentence.
        commands: lines for the shell that make it.
    """

    what: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Names and values, of which there is no number to compare.

    Attributes:
        title: what they are of.
        rows: name and value.
        code: values are commands, paths or hashes.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    code: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn elsewhere: title, ``data:`` address, and what it shows."""

    title: str
    uri: str
    alt: str


@dataclass(frozen=True)
class Fold:
    """Something long that is shown when it is asked for: text, or figures."""

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of a page; what it has none of is left out.

    Attributes:
        id: in addresses.
        title: of it.
        intro: a paragraph.
        examples: to listen to.
        figures, tables, sounds, pictures, facts, folds: in this order.
        sounds_title: above the sounds, which are names and ``data:`` addresses.
        keys: name -> colour, of all figures.
        missing: what is not there yet.
    """

    id: str
    title: str
    intro: str = ""
    examples: Sequence[Example] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    sounds: Sequence[tuple[str, str]] = ()
    sounds_title: str = ""
    pictures: Sequence[Picture] = ()
    facts: Sequence[Facts] = ()
    folds: Sequence[Fold] = ()
    keys: dict[str, int] | None = None
    missing: Sequence[Missing] = ()


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        kind: above the title.
        title: of it.
        summary: a sentence below it.
        status: how the run stands; empty without.
        message: why, of one that ended badly.
        key_figures: the first look.
        sections: all that follows.
    """

    kind: str
    title: str
    summary: str
    status: str = ""
    message: str = ""
    key_figures: Sequence[KeyFigure] = ()
    sections: Sequence[Section] = ()


def render(page: Page) -> str:
    """The HTML of a page. Everything in it is escaped but what this package has drawn itself."""
    return _template().render(page=page, version=__version__)


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("sqvae_speech.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["colour"] = colour_class
    return environment.get_template("page.html")


def write_page(path: Path, page: Page) -> Path:
    """Write a page, whole or not at all; returns its path."""
    write_text(path, render(page))
    return path
