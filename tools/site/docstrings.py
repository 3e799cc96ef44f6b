"""What the docstrings of this project have and Griffe does not know, for the site's reference (see mkdocs.yml).

References (``:class:`X```, ``:meth:`~a.b.C.d```) become links where the site has their target, and a line of a
section that is of several names (``low, high: the range``) a line each.
"""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|exc):`(~?)([\w.]+)`")
SEVERAL = re.compile(r"^(    )(\w+(?:, \w+)+): (.+)$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Griffe has read a package: rewrite its docstrings."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._rewrite(pkg)

    def _rewrite(self, scope: griffe.Object) -> None:
        if scope.docstring is not None:
            text = SEVERAL.sub(_line_each, scope.docstring.value)
            scope.docstring.value = ROLE.sub(lambda role: _link(role, scope), text)
        for member in scope.members.values():
            if isinstance(member, griffe.Object):
                self._rewrite(member)


def _line_each(line: re.Match[str]) -> str:
    indent, names, text = line.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))


def _link(role: re.Match[str], scope: griffe.Object) -> str:
    short, name = role.groups()
    try:
        first, dot, rest = name.partition(".")
        target = f"{scope.resolve(first)}{dot}{rest}"
    except griffe.NameResolutionError:
        target = name
    shown = name.rpartition(".")[2] if short else name
    # optional: what has no entry in the reference stays text
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'
