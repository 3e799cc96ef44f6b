"""What MkDocs does not do by itself (mkdocs.yml names this file): other pages of the repository, links, formulas.

The same Markdown is read on the site and in the repository. On the site, pages outside docs/ lie under
``repository/``, and links to files that are no pages become their text.
"""

import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "repository/"
RESULTS = ("egs/*/RESULTS.md", "benchmarks/results/*.md")
PROJECT = ("CONTRIBUTING.md", "CHANGELOG.md")
PICTURES = ("egs/*/results/*.png",)
HOME = {"README.md": "docs/index.md"}  # the site's home says what the README says

FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
FUNCTION = re.compile(r"<mi>(log|exp)</mi>(?!<mo)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation: pages that mkdocs.yml does not name, results, and the project's own files."""
    nav: list[Any] = config.nav or []
    named = set(_pages_of(nav))
    guides = next(item["Guides"] for item in nav if isinstance(item, dict) and "Guides" in item)
    guides += sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
    nav.append({"Results": [PREFIX + path for path in _paths(RESULTS)]})
    nav.append({"Project": [PREFIX + path for path in PROJECT]})
    config.nav = nav
    return config


def _pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages_of(item)


def _paths(patterns: tuple[str, ...]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and their pictures, that lie outside docs/."""
    for path in _paths((*RESULTS, *PROJECT, *PICTURES)):
        files.append(File.generated(config, PREFIX + path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point links at where pages lie on the site."""
    source = page.file.src_uri
    rewritten, end = [], 0
    for fence in [*FENCE.finditer(markdown), None]:
        text = markdown[end : fence.start() if fence else None]
        rewritten.append(LINK.sub(lambda link: _link(link, source, files), text))
        if fence:
            rewritten.append(fence[0])
            end = fence.end()
    return "".join(rewritten)


def _link(link: re.Match[str], source: str, files: Files) -> str:
    image, text, target = link.groups()
    path, hash_sign, anchor = target.partition("#")
    if not path or ":" in path:
        return link[0]
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(_in_repository(source)), unquote(path)))
    on_site = _on_site(HOME.get(wanted, wanted))
    if files.get_file_from_path(on_site) is not None:
        relative = posixpath.relpath(on_site, posixpath.dirname(source) or ".")
        return f"{image}[{text}]({relative}{hash_sign}{anchor})"
    if not image and (ROOT / wanted).exists():
        return text
    return link[0]  # MkDocs warns, and a warning is an error


def _in_repository(source: str) -> str:
    return source.removeprefix(PREFIX) if source.startswith(PREFIX) else f"docs/{source}"


def _on_site(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else PREFIX + path


def on_page_content(html_text: str, page: Page, **_: Any) -> str:
    """Write formulas as MathML, which browsers draw without a script."""
    return FORMULA.sub(lambda formula: _mathml(formula, page), html_text)


def _mathml(formula: re.Match[str], page: Page) -> str:
    tex = html.unescape(formula[2]).strip()
    try:
        mathml = convert(tex, display="block" if formula[1] == "div" else "inline")
    except Exception as error:  # whatever the text makes it stumble over
        raise PluginError(f"{page.file.src_uri}: the formula {tex!r} cannot be read: {error!r}") from error
    if "\\" in html.unescape(mathml):  # a command that it does not know is left as it is
        raise PluginError(f"{page.file.src_uri}: the formula {tex!r} has a command that is not known")
    mathml = mathml.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # a relation, not a letter
    return FUNCTION.sub(r'<mi>\1</mi><mspace width="0.17em"/>', mathml)
