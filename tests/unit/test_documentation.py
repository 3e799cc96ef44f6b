"""What the documentation says: its Python is run, its commands are read by their parsers, its messages are real.

docs/loaders.md is run by test_loaders.py, and docs/deployment.md by test_models_exporting.py, which have more to run
them on.
"""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Collection

import pytest
import soundfile
import torch
import yaml
from documentation import ROOT, blocks, check_commands, pages, run_bash, run_python
from image_fixtures import make_image_shards
from units_world import make_world, voice

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.bin.main import main
from sqvae_speech.config import load_config
from sqvae_speech.data import corpora
from sqvae_speech.data.corpora import CORPORA
from sqvae_speech.experiments.trials import expand, load_sweep
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, save_vocoder
from sqvae_speech.models.vocoder_model import VocoderModel
from sqvae_speech.models.vocoder_network import VocoderConfig
from sqvae_speech.quantization import QuantizerConfig
from sqvae_speech.quantization.config import BUILDERS
from sqvae_speech.training.speech_config import SpeechTrainConfig
from sqvae_speech.vocoder import speech_vocoder

ELSEWHERE = {"loaders.md": "test_loaders.py", "deployment.md": "test_models_exporting.py"}
HERE = {"corpus.md", "quantizer.md"}  # by tests of their own


def named(page) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what examples speak of: speech.wav, the tokenizer of the project, shards, units, recordings."""
    world = make_world(tmp_path_factory.mktemp("world"))
    root = world.root
    (root / "exp").symlink_to(world.model)
    (root / "sqvae_speech").mkdir()
    (root / "sqvae_speech" / "pretrained").symlink_to(ROOT / "sqvae_speech" / "pretrained")
    soundfile.write(root / "speech.wav", voice(0.6, 2), 16_000)
    encode = ["encode", "--model", str(world.model), "--data-dir", str(root / "data" / "test")]
    assert main([*encode, "--output", str(root / "units" / "test.parquet"), "--quiet"]) == 0
    return world


@pytest.fixture
def folder(world, tmp_path, monkeypatch):
    """A copy of that folder, to stand in."""
    shutil.copytree(world.root, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(folder) -> dict:
    """Shards of images where docs/images.md has them."""
    shutil.rmtree(folder / "dump")
    for split, count in {"train": 130, "test": 7}.items():
        make_image_shards(folder / "dump" / split, count)
    return {}


def vocoders(folder) -> dict:
    """An untrained vocoder, and what it is to say and where to."""
    spec = MelSpec.preset("sqvae16k")
    (folder / "exp").unlink()
    (folder / "exp" / "vocoder").mkdir(parents=True)
    save_vocoder(folder / "exp" / "vocoder", VocoderBundle(VocoderModel(VocoderConfig(), spec)))
    mel = LogMel(spec)(torch.from_numpy(voice(0.6, 2)).float()[None]).mel[0]
    return {"mel": mel, "peak": 0.5, "vocoder": speech_vocoder("exp/vocoder"), "play": list}


# page -> what it needs besides the world: prepares files, gives names
PREPARE = {"images.md": images, "vocoders.md": vocoders}


def pages_with(language: str, without: Collection[str] = ()) -> list:
    found = [page for page in pages() if page.name not in without and blocks(page, language)]
    return [pytest.param(page, id=named(page)) for page in found]


@pytest.mark.parametrize("page", pages_with("python", HERE | ELSEWHERE.keys()))
def test_python_runs(page, folder):
    names = PREPARE[page.name](folder) if page.name in PREPARE else {}
    run_python(blocks(page, "python"), {"__name__": "example", **names})


@pytest.mark.parametrize("page", pages_with("bash", HERE))
def test_commands_can_be_read(page):
    assert check_commands(page) > 0


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_lead_somewhere_in_the_repository(page):
    """The site's are looked at when it is built; the same pages are also read where they lie."""
    code = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^()\s]+)\)", code.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        found = page.parent / path if path else page
        assert found.exists(), f"{page.name}: there is no {path}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, f"{page.name}: {path} has no title of the anchor {anchor}"


def test_every_language_is_looked_at():
    """A block in a language that nobody looks at is one that nobody checks."""
    known = {"python", "bash", "yaml", "text", "bibtex", ""}
    assert {block.language for page in pages() for block in blocks(page)} <= known
    for name, test in ELSEWHERE.items():
        assert name in (ROOT / "tests" / "unit" / test).read_text(encoding="utf-8")


def test_few_blocks_are_left_out():
    left_out = [block.place for page in pages() for block in blocks(page) if block.not_run is not None]
    assert len(left_out) <= 3, left_out


def test_a_page_that_is_wrong_is_found(tmp_path):
    """The checks above can fail."""

    def look_at(page):
        check_commands(page)
        run_python(blocks(page, "python"))

    page = tmp_path / "page.md"
    for text, message in {
        "```python\nimport torch\n\ntorch.zeros(2, 3)  # (2, 4)\n```": r"page.md:2: \(2, 3\) is said to be \(2, 4\)",
        "```python\nimport torch\n\nx = torch.zeros(2)  # x (n,) int64\n```": "float32 is said to be",
        "```python\n1 + 1  # 3\n```": "2 is said to be 3",
        "```bash\nsqvae-speech encode --modle x\n```": "--modle x cannot be read",
        "```bash\nsqvae-speech train ... --tracer wandb\n```": "no option --tracer",
        "```bash\nsqvae-speech train --exp-dir x --training.num_stpes 3\n```": "num_stpes",
        "```bash\nbash egs/mini/run.sh --stge 1\n```": "unknown option --stge",
        "```bash\nbash egs/vctk/run.sh --shards-args '--trimm 3'\n```": "--trimm 3 cannot be read",
        "```bash\nsqvae-speech decode\n```": "no verb",
    }.items():
        page.write_text(text + "\n")
        with pytest.raises(AssertionError, match=message):
            look_at(page)


def test_configurations_can_be_read(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for name in ("recipes.md", "corpus.md"):
        (block,) = blocks(ROOT / "docs" / name, "yaml")
        path = tmp_path / "egs" / name / "conf" / "train.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(block.text)
        load_config(SpeechTrainConfig, path)


def test_sweeps_can_be_read(tmp_path):
    """The first example is whole, and each of the others takes the place of its grid."""
    whole, *parts = (yaml.safe_load(block.text) for block in blocks(ROOT / "docs" / "experiments.md", "yaml"))
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("training:\n  batch_size: 2\n")
    path = tmp_path / "sweep.yaml"
    counts = []
    for sweep in (whole, *({**whole, "grid": {}, **part} for part in parts)):
        path.write_text(yaml.safe_dump(sweep))
        counts.append(len(expand(load_sweep(path), tmp_path, [])))
    assert counts[:2] == [2 * 2 * 3, 20 * 3]


@pytest.fixture
def registries():
    """Corpora and quantizers that an example adds are gone after the test."""
    kept = [(registry, dict(registry)) for registry in (CORPORA, BUILDERS)]
    yield
    for registry, entries in kept:
        registry.clear()
        registry.update(entries)


def test_a_corpus_is_added_as_documented(tmp_path, monkeypatch, registries):
    """docs/corpus.md: the module is a file of the package, the test that is shown passes, the recipe takes it."""
    page = ROOT / "docs" / "corpus.md"
    module, entry, test = blocks(page, "python")
    usage, recipe = blocks(page, "bash")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "greetings.py").write_text(module.text)
    monkeypatch.setattr(corpora, "__path__", [*corpora.__path__, str(tmp_path / "package")])
    monkeypatch.setitem(sys.modules, "sqvae_speech.data.corpora.greetings", None)  # to be forgotten afterwards
    monkeypatch.delitem(sys.modules, "sqvae_speech.data.corpora.greetings")
    monkeypatch.setattr(corpora, "greetings", None, raising=False)
    monkeypatch.delattr(corpora, "greetings")
    monkeypatch.chdir(tmp_path)
    names = run_python([entry, test])
    names["test_greetings"](tmp_path / "own")
    names["make_greetings"](tmp_path / "greetings")
    run_bash(usage)
    assert (tmp_path / "dump" / "train" / "index.json").is_file()
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    script = tmp_path / "egs" / "greetings" / "run.sh"
    script.parent.mkdir(parents=True)
    script.write_text(recipe.text)
    said = subprocess.run(["bash", script, "--corpus", "greetings", "--help"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "calls it (greetings)" in said.stdout


def test_a_quantizer_is_added_as_documented(monkeypatch, registries):
    """docs/quantizer.md: it trains a model, keeps what all quantizers promise, and passes the test that is shown."""
    contract = importlib.import_module("test_quantizer_contract")
    monkeypatch.setitem(contract.CONFIGS, "cosine", QuantizerConfig("cosine"))
    names = run_python(blocks(ROOT / "docs" / "quantizer.md", "python"))
    names["test_against_its_equation"]()
    assert names["losses"][-1] < 0.9 * names["losses"][0]
    contract.test_shapes_dtypes_and_the_short_form("cosine", (2, 3, 4))
    for training in (True, False):
        contract.test_masked_positions_change_nothing("cosine", training)
    contract.test_a_mask_is_the_same_as_leaving_out("cosine")
    contract.test_loss_sums_over_positions_and_averages_over_the_first_axis("cosine")


def test_the_messages_of_troubleshooting_are_the_programs():
    """Every heading that is a message has its words, in their order, in one text of the program."""
    texts = program_texts()
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(messages) > 25
    for message in messages:
        pieces = [piece for piece in message.split("…") if piece.strip(" :(.;")]
        pattern = re.compile(".*?".join(re.escape(piece) for piece in pieces), re.DOTALL)
        assert any(map(pattern.search, texts)), message


def program_texts() -> list[str]:
    """All string constants of the package and the words of its shell scripts; what is filled in is left out."""
    found = [path.read_text(encoding="utf-8") for path in (ROOT / "tools" / "setup.sh", ROOT / "recipes" / "lib.sh")]
    for path in (ROOT / "sqvae_speech").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found
