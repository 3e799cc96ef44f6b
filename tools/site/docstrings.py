"""References of docstrings (``:class:`X```, ``:meth:`~a.b.C.d```) as links of the site, where it has their target."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|exc):`(~?)([\w.]+)`")


class References(griffe.Extension):
    """Griffe has read a package: rewrite its docstrings."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._rewrite(pkg)

    def _rewrite(self, scope: griffe.Object) -> None:
        if scope.docstring is not None:
            scope.docstring.value = ROLE.sub(lambda role: _link(role, scope), scope.docstring.value)
        for member in scope.members.values():
            if isinstance(member, griffe.Object):
                self._rewrite(member)


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
