"""The vocoder that comes with the project: what torch.hub and ``--vocoder istft`` load, and how it is made."""

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from voice_fixtures import voice

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import PRESETS
from sqvae_speech.bin import export
from sqvae_speech.bin._cli import run
from sqvae_speech.errors import UserError
from sqvae_speech.models import istft_vocoder
from sqvae_speech.models.istft_vocoder import BUNDLED, IstftVocoder
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, load_trained_vocoder, save_vocoder
from sqvae_speech.models.vocoder_model import VocoderModel
from sqvae_speech.models.vocoder_network import VocoderConfig
from sqvae_speech.models.vocoders import load_vocoder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    model = VocoderModel(VocoderConfig(channels=16, num_blocks=1), PRESETS["sqvae16k"])
    (tmp_path / "trained").mkdir()
    save_vocoder(tmp_path / "trained", VocoderBundle(model, step=7))
    return tmp_path / "trained"


def hub_load(*args, **options):
    return torch.hub.load(str(ROOT), "sqvae_speech_vocoder", *args, source="local", **options)


def test_torch_hub_loads_a_folder_and_an_untrained_one(folder):
    mel = torch.rand(80, 12)
    vocoder = hub_load(pretrained=str(folder), progress=True)
    assert isinstance(vocoder, IstftVocoder)
    assert not vocoder.bundle.model.training
    assert torch.equal(vocoder.vocode(mel), load_vocoder(f"istft:{folder}", PRESETS["sqvae16k"]).vocode(mel))
    assert hub_load(pretrained=False, mel_spec="melgan22k").mel_spec == PRESETS["melgan22k"]
    with pytest.raises(UserError, match="no device 'gpu0'"):
        hub_load(pretrained=False, map_location="gpu0")
    with pytest.raises(UserError, match="no model at exp/typo/x"):
        hub_load(pretrained="exp/typo/x")


def test_the_bundled_one_copies_a_voice():
    """Not how well, which needs minutes of speech: it is there, it is small, and it says what the mel says."""
    size = sum(path.stat().st_size for path in BUNDLED.iterdir())
    assert size < 5e6
    vocoder = load_vocoder("istft", PRESETS["sqvae16k"])
    wav = voice(16000)
    mel, _, peak = LogMel(vocoder.mel_spec)(wav)
    made = hub_load().vocode(mel, peak)
    assert made.shape == (1, vocoder.mel_spec.num_samples(mel.shape[2]))
    assert torch.equal(made, vocoder.vocode(mel, peak))
    error = (LogMel(vocoder.mel_spec)(made).mel - mel).abs().mean() * 80
    assert error < 6.0, "dB"


def test_without_it_a_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(istft_vocoder, "BUNDLED", tmp_path / "none")
    for call in (hub_load, lambda: load_vocoder("istft", PRESETS["sqvae16k"])):
        with pytest.raises(UserError, match="without its small vocoder; name another"):
            call()


def test_the_mini_recipes_script_makes_what_is_bundled(folder, tmp_path):
    target = tmp_path / "shared" / "mine"
    script = ROOT / "egs" / "mini" / "local" / "bundle.sh"
    command = ["bash", str(script), "vocoder", str(folder), str(target)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        str(target / name) for name in ("README.md", "config.json", "model.safetensors")
    ]
    card = (target / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    unknown = subprocess.run(["bash", str(script), "vocodor"], capture_output=True, text=True, timeout=30)
    assert unknown.returncode == 2
    assert unknown.stderr == "error: which model? tokenizer, vocoder or text_to_units, not 'vocodor'\n"
    assert "sqvae16k: 16000 Hz, 80 mels, hop 160" in card
    assert load_trained_vocoder(target).step == 7
    assert (target / "model.safetensors").stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size


def test_the_cards_python_lines_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(export.main, ["--model", str(folder), "--output", "small", "--format", "bundle"]) == 0
    lines = Path("small/README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict = {"mel": torch.rand(80, 9), "peak": 0.5}
    exec(lines, names)
    assert names["wav"].shape == (8 * 160,)


def test_a_vocoder_is_exported_as_a_folder_only(folder, tmp_path, capsys):
    for words in (["--format", "onnx"], ["--format", "bundle", "--check", "a.wav"]):
        with pytest.raises(SystemExit):
            export.main(["--model", str(folder), "--output", str(tmp_path / "x.onnx"), *words])
        assert "a vocoder is exported with --format bundle" in capsys.readouterr().err


def test_the_bundle_is_part_of_the_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = settings["options.package_data"]["sqvae_speech"].split()
    inside = BUNDLED.relative_to(ROOT / "sqvae_speech") / "model.safetensors"
    assert any(inside.match(pattern) for pattern in patterns)
