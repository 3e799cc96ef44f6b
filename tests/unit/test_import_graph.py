"""Who may import whom: the rules of the package's layers, over every import statement, inside functions too."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sqvae_speech"
EVERYBODY = {"errors", "version", "config"}
# layer -> the layers that it may import, besides itself and EVERYBODY. A layer is a folder or a module.
LAYERS = {
    "errors": set(),
    "version": set(),
    "config": set(),
    "plots": set(),
    "quantization": set(),
    "audio": set(),
    "models": {"quantization", "audio"},
    "data": {"audio"},
    "training": {"audio", "models", "data", "quantization", "units", "plots"},
    "units": {"models", "data", "audio", "plots"},
    "evaluation": {"units", "models", "data", "audio", "plots"},
    "experiments": {"training", "data", "plots"},
    "tokenizer": {"models", "audio", "units"},
}
LAYERS["bin"] = set(LAYERS)
# The leaves everybody may import do not lean on one another, but a setting that is wrong is a user's error.
WITHOUT_EVERYBODY = {"errors", "version", "quantization"}
TORCH_ONLY = {"quantization"}


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of all that a module imports; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return one line for each import of ``module`` that the layers do not allow."""
    layer = module.split(".")[1] if "." in module else ""
    if layer and layer not in LAYERS:
        return [f"{module}: no layer {layer!r}; say in LAYERS what it may import"]
    found = []
    for line, name in imported(ast.parse(source), module, is_package):
        top = name.partition(".")[0]
        if top == PACKAGE:
            target = name.split(".")[1] if "." in name else ""
            allowed = LAYERS[layer] | {layer} if layer else set(LAYERS)
            if layer not in WITHOUT_EVERYBODY:
                allowed = allowed | EVERYBODY
            if target in LAYERS and target not in allowed:
                found.append(f"{module}:{line}: {layer} must not import {target} ({name})")
        elif top in {"recipes", "egs", "tools", "tests"}:
            found.append(f"{module}:{line}: the package must not import from {top}/ ({name})")
        elif layer in TORCH_ONLY and top not in {"torch", "triton"} and top not in sys.stdlib_module_names:
            found.append(f"{module}:{line}: {layer} is torch only ({name})")
    return found


def modules() -> list[tuple[str, Path]]:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return [
        (".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), file) for file in files
    ]


@pytest.mark.parametrize(("module", "file"), modules(), ids=[name for name, _ in modules()])
def test_imports_point_one_way(module: str, file: Path):
    assert violations(file.read_text(encoding="utf-8"), module, file.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("sqvae_speech.audio.wav", "from sqvae_speech.errors import UserError", 0),
        ("sqvae_speech.audio.wav", "from sqvae_speech.models.speech import SpeechModel", 1),
        ("sqvae_speech.audio.wav", "from ..models import speech", 1),
        ("sqvae_speech.audio.wav", "from . import melspec", 0),
        ("sqvae_speech.audio.wav", "def f():\n    import sqvae_speech.training.loop", 1),
        ("sqvae_speech.models.speech", "from sqvae_speech import data", 1),
        ("sqvae_speech.models.speech", "from sqvae_speech.quantization import GaussianQuantizer", 0),
        ("sqvae_speech.quantization.gaussian", "import numpy", 1),
        ("sqvae_speech.quantization.gaussian", "import math\nimport torch.nn.functional", 0),
        ("sqvae_speech.quantization.gaussian", "from sqvae_speech.errors import UserError", 1),
        ("sqvae_speech.units.store", "from sqvae_speech.evaluation import codebook", 1),
        (
            "sqvae_speech.bin.encode",
            "from sqvae_speech.units import store\nfrom sqvae_speech.training import loop",
            0,
        ),
        ("sqvae_speech.bin.encode", "from tools import setup", 1),
        ("sqvae_speech.newcomer.thing", "", 1),
    ],
)
def test_the_rules_are_held(module: str, source: str, count: int):
    assert len(violations(source, module)) == count


def test_nothing_heavy_is_imported_with_the_command():
    """``sqvae-speech --help`` answers at once: the dispatcher imports no torch."""
    source = (ROOT / PACKAGE / "bin" / "main.py").read_text(encoding="utf-8")
    tops = {name.partition(".")[0] for _, name in imported(ast.parse(source), f"{PACKAGE}.bin.main", False)}
    assert tops <= {PACKAGE} | set(sys.stdlib_module_names)
