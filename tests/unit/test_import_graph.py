"""Who may import whom: the rules of the package's layers, over every import statement, inside functions too."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sqvae_speech"
EVERYBODY = {"errors", "version", "config", "allocation"}
# layer -> the layers that it may import, besides itself and EVERYBODY. A layer is a folder or a module.
LAYERS = {
    "errors": set(),
    "version": set(),
    "config": set(),
    "allocation": set(),
    "plots": set(),
    "quantization": set(),
    "audio": set(),
    "images": set(),
    "models": {"quantization", "audio", "images"},
    "data": {"audio", "images"},
    "training": {"audio", "images", "models", "data", "quantization", "units", "plots"},
    "units": {"models", "data", "audio", "images", "plots"},
    "evaluation": {"units", "models", "data", "audio", "images", "plots"},
    "experiments": {"training", "data", "plots"},
    "reporting": {"experiments", "evaluation", "training", "units", "models", "data", "audio", "plots"},
    "tokenizer": {"models", "audio", "units"},
    "vocoder": {"models", "audio", "units"},
}
LAYERS["bin"] = set(LAYERS)
# The leaves everybody may import do not lean on one another, but a setting that is wrong is a user's error.
WITHOUT_EVERYBODY = {"errors", "version", "allocation", "quantization"}
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


# ---- speech and images


def is_image(module: str) -> bool:
    """Whether a module is of the vision half: it, or a folder that it is in, is called so."""
    return any(part.startswith("image") for part in module.split(".")[1:])


def is_speech(module: str) -> bool:
    """Whether a module is of the speech half: it is named so, or knows sound."""
    parts = module.split(".")[1:]
    return parts[:1] == ["audio"] or any(part.startswith("speech") for part in parts)


def import_graph(sources: dict[str, str], packages: set[str]) -> dict[str, set[str]]:
    """Return the modules of ours that each module imports; of a package, the package's own imports too."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        names = {name for _, name in imported(ast.parse(source), module, module in packages)}
        known = {name if name in sources else name.rpartition(".")[0] for name in names}
        known &= sources.keys()
        # importing a module runs the packages above it
        above = {
            ".".join(name.split(".")[:length])
            for name in {module, *known}
            for length in range(1, name.count(".") + 1)
        }
        graph[module] = (known | above & sources.keys()) - {module}
    return graph


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return all that a module imports, directly or through others."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        for name in graph[todo.pop()] - seen:
            seen.add(name)
            todo.append(name)
    return seen


def mixtures(graph: dict[str, set[str]]) -> list[str]:
    """Return one line for each module outside bin that brings speech and images together.

    Both halves stand on shared modules, and these on neither: a module that reaches speech is of the speech half, and
    no module of either half reaches the other. Only the command line knows both.
    """
    found = []
    for module in sorted(graph):
        if module.split(".")[1:2] == ["bin"]:
            continue
        names = reached(graph, module) | {module}
        speech, images = sorted(filter(is_speech, names)), sorted(filter(is_image, names))
        if speech and images:
            found.append(f"{module} brings together {speech[0]} and {images[0]}")
    return found


def test_speech_and_images_meet_only_in_shared_parts():
    files = modules()
    sources = {module: file.read_text(encoding="utf-8") for module, file in files}
    packages = {module for module, file in files if file.name == "__init__.py"}
    assert mixtures(import_graph(sources, packages)) == []


@pytest.mark.parametrize(
    ("added", "count"),
    [
        ({}, 0),
        ({"p.data.image_dir": "from p.data import shared"}, 0),
        # which knows sound, though its name does not say so
        ({"p.data.image_dir": "from p.data import shards"}, 1),
        ({"p.data.image_dir": "from p.data.speech_dir import X"}, 1),
        ({"p.data.image_dir": "def f():\n    import p.audio.wav"}, 1),
        # what is shared leans on neither: here speech_dir and shards reach images through it
        ({"p.data.shared": "from p.data import image_dir"}, 2),
        # a package that gathers both: it, and all that is in it or imports it
        ({"p.data": "from p.data import image_dir, shards"}, 5),
        ({"p.bin.encode": "from p.data import image_dir, shards"}, 0),
    ],
)
def test_the_halves_are_kept_apart(added: dict[str, str], count: int):
    sources = {
        "p": "",
        "p.audio": "",
        "p.audio.wav": "",
        "p.data": "",
        "p.data.shared": "import json",
        "p.data.shards": "from p.audio.wav import read_wav\nfrom p.data.shared import X",
        "p.data.speech_dir": "from p.data import shared",
        "p.data.image_dir": "import numpy",
        "p.bin.encode": "",
    }
    found = mixtures(import_graph({**sources, **added}, {"p", "p.audio", "p.data"}))
    assert len(found) == count, found


def test_nothing_heavy_is_imported_with_the_command():
    """``sqvae-speech --help`` answers at once: the dispatcher imports no torch."""
    source = (ROOT / PACKAGE / "bin" / "main.py").read_text(encoding="utf-8")
    tops = {name.partition(".")[0] for _, name in imported(ast.parse(source), f"{PACKAGE}.bin.main", False)}
    assert tops <= {PACKAGE} | set(sys.stdlib_module_names)
