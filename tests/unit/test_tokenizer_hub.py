"""Where tokenizers come from and go to: folders, runs, the Hugging Face Hub (a small one of our own), torch.hub."""

import configparser
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from documentation import ROOT, blocks, run_python
from units_world import make_model, voice

from sqvae_speech import tokenizer as module
from sqvae_speech.errors import UserError
from sqvae_speech.models.pretrained import load_speech_model
from sqvae_speech.models.tokenizer_card import tokenizer_card
from sqvae_speech.tokenizer import SpeechTokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WAV = voice(0.5, 1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "model"
    make_model(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@contextlib.contextmanager
def hub_of(folder: Path, repo_id: str):
    """A server that answers what a download of one model asks, from the files of ``folder``; yields its address."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            path = self.path.partition("?")[0]
            name = path.rsplit("/", 1)[-1]
            if path.startswith(f"/{repo_id}/resolve/") and name in files:
                self.send(200, files[name], body, name)
            elif path == f"/api/models/{repo_id}/revision/main":
                siblings = [{"rfilename": name} for name in files]
                self.send(200, json.dumps({"id": repo_id, "sha": COMMIT, "siblings": siblings}).encode(), body)
            elif path.startswith(f"/api/models/{repo_id}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                self.send(200, json.dumps(tree).encode(), body)
            elif path.startswith(f"/api/models/{repo_id}/revision/"):
                self.send(404, b"{}", body, error="RevisionNotFound")
            else:
                self.send(404, b"{}", body, error="RepoNotFound")

        def send(self, status: int, data: bytes, body: bool, name: str = "", error: str = ""):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", COMMIT)
            if name:
                self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            else:
                self.send_header("Content-Type", "application/json")
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_folder_needs_no_network(folder, monkeypatch, no_network):
    monkeypatch.chdir(folder.parent)
    for name in (folder, str(folder), "model", "./model"):
        assert SpeechTokenizer.from_pretrained(name).codebook_size == 32


def test_a_folder_whose_name_is_a_hub_id_is_the_folder(folder, monkeypatch, no_network):
    monkeypatch.chdir(folder.parent.parent)
    assert SpeechTokenizer.from_pretrained(f"{folder.parent.name}/model").codebook_size == 32


def run_folder(root: Path, folder: Path) -> Path:
    """An experiment as training and scoring leave it."""
    checkpoint = root / "run" / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    for file in folder.iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    (checkpoint.parent / "latest").write_text(checkpoint.name + "\n")
    shards = root / "secret" / "dump" / "train"
    shards.mkdir(parents=True)
    index = {"num_utterances": 9, "num_frames": 720_000, "speakers": ["a", "b"]}
    index["mel_spec"] = {"hop_length": 160, "sample_rate": 16_000}
    (shards / "index.json").write_text(json.dumps(index))
    (root / "run" / "config.yaml").write_text(f"data:\n  train: {shards}\n")
    scores = {
        "checkpoint": load_speech_model(folder).fingerprint,
        "splits": [
            {
                "split": "test",
                "utterances": 5,
                "error_db2": {"pooled": 25.519},
                "codebook": {"perplexity": 200.04},
                "units": {"bitrate": 390.26},
            },
            {
                "split": "other",
                "utterances": 2,
                "error_db2": None,
                "codebook": {"perplexity": 100.0},
                "units": {"bitrate": 300.0},
            },
        ],
    }
    (root / "run" / "scores").mkdir()
    (root / "run" / "scores" / "scores.json").write_text(json.dumps(scores))
    return root / "run"


def test_a_run_is_loaded_and_saved_with_its_card(folder, tmp_path):
    run = run_folder(tmp_path, folder)
    tokenizer = SpeechTokenizer.from_pretrained(run)
    saved = tokenizer.save_pretrained(tmp_path / "out" / "small", licence="cc-by-4.0")
    assert {path.name for path in saved.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert [path.name for path in saved.parent.iterdir()] == ["small"]
    again = SpeechTokenizer.from_pretrained(saved)
    assert again.bundle.fingerprint == tokenizer.bundle.fingerprint  # or its units would be those of another model
    assert torch.equal(again.encode(WAV, 16_000).codes, tokenizer.encode(WAV, 16_000).codes)
    card = (saved / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"
    assert "speech-tokenizer" in yaml.safe_load(head)["tags"]
    for fact in (
        "dump/train: 9 utterances, 2.00 h, 2 speakers",
        "sqvae16k: 16000 Hz",
        "1 of K = 32",
        "50 units a second",
        "250.0 bit/s at most",
        "| licence | cc-by-4.0 |",
        "3: ann, bob, eve",
        "7 steps",
        "77.5 ms",
        "| test | 5 | 25.52 | 200.0 | 390.3 |",
        "| other | 2 | n/a | 100.0 | 300.0 |",
        'from_pretrained("small")',
    ):
        assert fact in body, fact
    assert "secret" not in card
    assert str(tmp_path) not in card
    tokenizer.save_pretrained(saved)  # over itself
    assert "not stated: ask the authors" in (saved / "README.md").read_text(encoding="utf-8")


def test_the_cards_python_lines_run(folder, tmp_path, monkeypatch):
    import soundfile

    SpeechTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "small")
    soundfile.write(tmp_path / "speech.wav", WAV, 16_000)
    monkeypatch.chdir(tmp_path)
    names = run_python(blocks(tmp_path / "small" / "README.md", "python"))
    assert names["units"].codes.shape == (1, 1, 24)
    assert names["speech"].wav.shape == (1, 47 * 160)


def test_scores_of_other_weights_and_damaged_files_are_left_out(folder, tmp_path):
    run = run_folder(tmp_path, folder)
    scores = json.loads((run / "scores" / "scores.json").read_text())
    (run / "scores" / "scores.json").write_text(json.dumps({**scores, "checkpoint": "another"}))
    assert "Scores" not in tokenizer_card(load_speech_model(run), "x")
    (run / "scores" / "scores.json").write_text("{")
    (run / "config.yaml").write_text("data: [")
    card = tokenizer_card(load_speech_model(run), "x")
    assert "Scores" not in card
    assert "| data | not stated |" in card
    assert "| data | three \\| words |" in tokenizer_card(load_speech_model(run), "x", data="three | words")


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


ASK_THE_SERVER = """
import sys
from sqvae_speech.errors import UserError
from sqvae_speech.tokenizer import SpeechTokenizer

repo_id, cache = sys.argv[1:]
SpeechTokenizer.from_pretrained(repo_id, cache_dir=cache)
for options in ({"name": "somebody/other"}, {"name": repo_id, "revision": "v9"}):
    try:
        SpeechTokenizer.from_pretrained(**options, cache_dir=cache + "-2")
    except UserError as error:
        print(error)
"""


def test_a_hub_id_is_downloaded_once_and_then_kept(folder, tmp_path, monkeypatch, no_proxies):
    repo_id, cache = "somebody/small-tokenizer", str(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no folder somebody/small-tokenizer here.*offline was asked for"):
        SpeechTokenizer.from_pretrained(repo_id, cache_dir=cache, offline=True)
    with hub_of(folder, repo_id) as address:  # which the library takes at its import only
        done = subprocess.run(
            [sys.executable, "-c", ASK_THE_SERVER, repo_id, cache],
            env={**os.environ, "HF_ENDPOINT": address, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    refusals = done.stdout.splitlines()
    assert "has no model 'somebody/other' that you may read" in refusals[0]
    assert "has no revision 'v9'" in refusals[1]
    expected = SpeechTokenizer.from_pretrained(folder).encode(WAV, 16_000).codes
    kept = SpeechTokenizer.from_pretrained(repo_id, cache_dir=cache, offline=True)
    assert torch.equal(kept.encode(WAV, 16_000).codes, expected)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    unreachable = SpeechTokenizer.from_pretrained(repo_id, cache_dir=cache)  # the cache serves
    assert torch.equal(unreachable.encode(WAV, 16_000).codes, expected)


def test_a_hub_id_without_a_network_is_one_message(tmp_path, monkeypatch, no_proxies):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cannot be reached: give a folder, or get it once with a network"):
        SpeechTokenizer.from_pretrained("somebody/small", cache_dir=tmp_path)
    with pytest.raises(UserError, match="somebody/small cannot be written on the Hugging Face Hub"):
        SpeechTokenizer(make_model(tmp_path / "m")).push_to_hub("somebody/small", token="none")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".upload")] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exp/typo/x", "no model at exp/typo/x"),
        ("./typo", "no model at"),
        ("typo", "no model at typo"),
        ("", "holds no model"),
    ],
)
def test_what_is_no_hub_id_is_looked_for_here_only(tmp_path, monkeypatch, no_network, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        SpeechTokenizer.from_pretrained(name)


def test_push_uploads_what_save_writes(folder, tmp_path, monkeypatch):
    calls = {}

    class Api:
        def __init__(self, token=None):
            calls["token"] = token

        def create_repo(self, repo_id, private=None, exist_ok=False):
            assert exist_ok
            calls["private"] = private
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, revision, **options):
            calls["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            calls["revision"] = revision
            calls["create_pr"] = options["create_pr"]
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    monkeypatch.chdir(tmp_path)
    tokenizer = SpeechTokenizer.from_pretrained(folder)
    options = {"private": True, "token": "t", "revision": "v1", "licence": "mit", "data": "my corpus"}
    assert tokenizer.push_to_hub("me/mine", **options, create_pr=True) == "https://hub/me/mine"
    assert (calls["token"], calls["private"], calls["revision"], calls["create_pr"]) == ("t", True, "v1", True)
    assert set(calls["files"]) == {"config.json", "model.safetensors", "README.md"}
    assert b'from_pretrained("me/mine")' in calls["files"]["README.md"]
    assert calls["files"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="owner/name"):
        tokenizer.push_to_hub("mine")
    tokenizer.save_pretrained(tmp_path / "kept", push_to_hub=True, repo_id="me/other", licence="mit")
    assert b'from_pretrained("me/other")' in calls["files"]["README.md"]
    assert b'from_pretrained("kept")' in (tmp_path / "kept" / "README.md").read_bytes()


def test_what_huggingface_hubs_mixin_promises(folder, tmp_path, monkeypatch):
    assert issubclass(SpeechTokenizer, huggingface_hub.ModelHubMixin)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="offline was asked for"):
        SpeechTokenizer.from_pretrained("somebody/small", local_files_only=True, cache_dir=tmp_path)
    with pytest.raises(TypeError, match="no argument 'dtpye'"):
        SpeechTokenizer.from_pretrained(folder, dtpye="bfloat16")
    card = SpeechTokenizer.from_pretrained(folder).generate_model_card("me/mine", licence="mit")
    assert card.data.license == "mit"
    assert card.data.library_name == "sqvae_speech"


def test_save_refuses_a_file(folder, tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file"):
        SpeechTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "x")


def hub_load(*args, **options):
    return torch.hub.load(str(ROOT), "sqvae_speech", *args, source="local", **options)


def test_torch_hub_loads_a_folder(folder, no_network):
    tokenizer = hub_load(pretrained=str(folder), map_location="cpu", dtype="bfloat16", progress=False)
    assert isinstance(tokenizer, SpeechTokenizer)
    assert not tokenizer.bundle.model.training
    assert tokenizer.dtype == torch.bfloat16
    assert "pretrained: True for" in module.speech_tokenizer.__doc__  # which torch.hub.help prints


def test_torch_hub_lists_and_helps(monkeypatch, no_network):
    """As of a repository on GitHub, which these two ask for, once it has been downloaded."""
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *_, **__: str(ROOT))
    assert torch.hub.list("owner/sqvae_speech", trust_repo=True) == ["sqvae_speech", "sqvae_speech_vocoder"]
    helped = torch.hub.help("owner/sqvae_speech", "sqvae_speech", trust_repo=True)
    for word in ("pretrained: True for", "progress:", "map_location:"):
        assert word in helped


def test_torch_hub_says_what_it_cannot_load(tmp_path, monkeypatch, no_network):
    with pytest.raises(UserError, match="no model at exp/typo/x"):
        hub_load(pretrained="exp/typo/x")
    with pytest.raises(UserError, match="no device 'gpu0'"):
        hub_load(pretrained=False, map_location="gpu0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no folder somebody/small here.*offline was asked for"):
        hub_load(pretrained="somebody/small", offline=True, cache_dir=tmp_path)


def test_the_mini_recipes_bundle_is_what_torch_hub_loads(folder, tmp_path, monkeypatch, no_network):
    """From a run to the folder that is part of the package, by the script that makes it."""
    run = run_folder(tmp_path, folder)
    target = tmp_path / "pretrained" / "mini"
    command = ["bash", str(ROOT / "egs" / "mini" / "local" / "bundle.sh"), "tokenizer", str(run), str(target)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        str(target / name) for name in ("README.md", "config.json", "model.safetensors")
    ]
    assert "license: apache-2.0" in (target / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(module, "BUNDLED", target)
    expected = SpeechTokenizer.from_pretrained(run).encode(WAV, 16_000).codes
    assert torch.equal(hub_load().encode(WAV, 16_000).codes, expected)


def test_the_bundle_is_part_of_the_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = settings["options.package_data"]["sqvae_speech"].split()
    inside = module.BUNDLED.relative_to(ROOT / "sqvae_speech") / "model.safetensors"
    assert any(inside.match(pattern) for pattern in patterns)


def test_torch_hub_without_the_bundled_tokenizer_says_what_to_do(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "none")
    with pytest.raises(UserError, match="without its small tokenizer; name another"):
        hub_load()
    make_model(tmp_path / "bundled")
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
    assert hub_load().codebook_size == 32


def test_an_untrained_network_of_the_published_sizes(no_network):
    tokenizer = hub_load(pretrained=False)
    assert (tokenizer.codebook_size, tokenizer.sample_rate, tokenizer.frame_rate) == (512, 16_000, 50.0)
    assert tokenizer.encode(WAV, 16_000).codes.shape == (1, 1, 24)
