"""Vocoders from torch.hub and pip, against stand-ins with the published interfaces, old habits included."""

import sys
import textwrap
import urllib.error
from pathlib import Path

import pytest
import torch

from sqvae_speech.audio.melspec import PRESETS
from sqvae_speech.audio.vocoder import load_vocoder
from sqvae_speech.errors import UserError

# descriptinc/melgan-neurips: an object, not a module; weights saved on a GPU and loaded as they are; librosa's
# filters by position; a wav (B, 1, T)
MELGAN = """
    import os
    from pathlib import Path
    import torch
    from librosa.filters import mel as librosa_mel_fn

    class Audio2Mel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mel_basis", torch.from_numpy(librosa_mel_fn(22050, 1024, 80, 0.0, None)).float())

    class MelVocoder:
        def __init__(self, path, device="cpu", github=False, model_name="multi_speaker"):
            self.fft = Audio2Mel().to(device)
            self.mel2wav = torch.nn.ConvTranspose1d(80, 1, 256, 256)
            root = Path(os.path.dirname(__file__))
            self.mel2wav.load_state_dict(torch.load(root / f"models/{model_name}.pt"))
            self.device = device

        def inverse(self, mel):
            with torch.no_grad():
                return self.mel2wav(mel.to(self.device))

    def load_melgan(model_name="multi_speaker"):
        return MelVocoder(path=None, github=True, model_name=model_name)
"""
# NVIDIA's: keyword options, weight normalisation to remove, noise made on a GPU, a wav (B, T)
WAVEGLOW = """
    import torch

    class WaveGlow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.utils.weight_norm(torch.nn.ConvTranspose1d(80, 1, 256, 256))

        @staticmethod
        def remove_weightnorm(model):
            torch.nn.utils.remove_weight_norm(model.layer)
            return model

        def infer(self, spect, sigma=1.0):
            noise = torch.cuda.FloatTensor(spect.size(0), spect.size(2) * 256).normal_()
            return self.layer(spect)[:, 0] + sigma * 0.01 * noise

    def nvidia_waveglow(pretrained=True, **kwargs):
        assert kwargs == {"model_math": "fp32"}
        torch.manual_seed(0)
        return WaveGlow()
"""
OTHER = """
    import torch

    class Net(torch.nn.Module):
        sampling_rate = 22050

        def forward(self, mel):
            return mel.mean(dim=1, keepdim=True).repeat_interleave(256, dim=2)

    def net(pretrained=True, progress=True, map_location="cpu"):
        return Net()

    def broken():
        raise ZeroDivisionError("no luck")

    def two_channels():
        return lambda mel: torch.zeros(1, 2, 512)
"""


def repository(folder: Path, source: str) -> str:
    folder.mkdir()
    (folder / "hubconf.py").write_text(textwrap.dedent(source))
    return str(folder)


@pytest.fixture
def melgan(tmp_path, monkeypatch) -> str:
    folder = repository(tmp_path / "melgan", MELGAN)
    (tmp_path / "melgan" / "models").mkdir()
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(
            torch.nn.ConvTranspose1d(80, 1, 256, 256).state_dict(), tmp_path / "melgan/models/multi_speaker.pt"
        )
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "melgan/models/multi_speaker.pt")
    return f"hub:{folder}:load_melgan"


def mels(preset: str, frames: int = 9, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(batch, PRESETS[preset].n_mels, frames, generator=generator)


def test_melgan(melgan):
    load = torch.load
    vocoder = load_vocoder(melgan, PRESETS["melgan22k"])
    assert torch.load is load
    assert vocoder.mel_spec == PRESETS["melgan22k"]
    wav = vocoder.vocode(mels("melgan22k"), lengths=torch.tensor([9, 4, 7]))
    assert wav.shape == (3, PRESETS["melgan22k"].num_samples(9))
    assert wav.dtype == torch.float32
    alone = vocoder.vocode(mels("melgan22k")[1, :, :4])
    assert torch.equal(wav[1, : len(alone)], alone)
    assert not wav[1, len(alone) :].any()
    torch.manual_seed(0)
    network = torch.nn.ConvTranspose1d(80, 1, 256, 256)
    expected = network(mels("melgan22k")[1:2, :, :4])[0, 0].detach()
    torch.testing.assert_close(alone, expected[: len(alone)])


def test_waveglow_sounds_the_same_each_time(tmp_path):
    vocoder = load_vocoder(f"hub:{repository(tmp_path / 'hub', WAVEGLOW)}:nvidia_waveglow", PRESETS["waveglow22k"])
    state = torch.get_rng_state()
    first = vocoder.vocode(mels("waveglow22k"))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, vocoder.vocode(mels("waveglow22k")))
    assert torch.cuda.FloatTensor is not torch.FloatTensor
    assert first.shape == (3, PRESETS["waveglow22k"].num_samples(9))


def test_any_other_entry_says_its_features(tmp_path):
    folder = repository(tmp_path / "hub", OTHER)
    vocoder = load_vocoder(f"hub:{folder}:net@melgan22k", PRESETS["melgan22k"])
    wav = vocoder.vocode(mels("melgan22k", batch=1)[0])
    expected = mels("melgan22k", batch=1)[0].mean(dim=0).repeat_interleave(256)
    size = PRESETS["melgan22k"].num_samples(9)
    expected = torch.nn.functional.pad(expected, (0, max(0, size - len(expected))))[:size]
    torch.testing.assert_close(wav, expected)
    with pytest.raises(UserError, match="does not say which features it was trained on: add one of @sqvae16k"):
        load_vocoder(f"hub:{folder}:net", PRESETS["melgan22k"])
    with pytest.raises(UserError, match="makes 22050 Hz, and vocos24k is of 24000 Hz"):
        load_vocoder(f"hub:{folder}:net@vocos24k", PRESETS["vocos24k"])


def test_a_vocoder_of_ours_knows_its_features(tmp_path):
    source = """
        def ours():
            from sqvae_speech.audio.melspec import PRESETS
            from sqvae_speech.audio.vocoder import GriffinLim
            return GriffinLim(PRESETS["sqvae16k"])
    """
    folder = repository(tmp_path / "hub", source)
    assert load_vocoder(f"hub:{folder}:ours", PRESETS["sqvae16k"]).mel_spec.name == "sqvae16k"
    with pytest.raises(UserError, match="sample_rate: 16000 in vocoder"):
        load_vocoder(f"hub:{folder}:ours", PRESETS["melgan22k"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "hub:{folder}:nothing",
            "Cannot find callable nothing in hubconf; its entries are net, broken, two_channels",
        ),
        ("hub:{folder}:broken@melgan22k", r"broken of .* failed \(ZeroDivisionError: no luck\)"),
        ("hub:{folder}:net@melgan", "no mel preset 'melgan', did you mean 'melgan22k'"),
        ("hub:{folder}:load_melgan", "sample_rate|Cannot find callable load_melgan"),
        ("hub:/nowhere/at/all:net@melgan22k", "there is no folder /nowhere/at/all"),
        ("hub:net", "has to be hub:<owner/name or folder>:<entry>"),
        ("griffin_lin", "no vocoder 'griffin_lin', did you mean 'griffin_lim'"),
        ("griffin_lim:many", "'many' is no number of rounds"),
    ],
)
def test_what_cannot_be_had_is_one_message(tmp_path, name, message):
    folder = repository(tmp_path / "hub", OTHER)
    with pytest.raises(UserError, match=message) as caught:
        load_vocoder(name.format(folder=folder), PRESETS["melgan22k"])
    assert "griffin_lim" in str(caught.value)


def test_features_of_another_kind_are_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(torch.hub, "load", lambda *a, **k: pytest.fail("fetched"))
    with pytest.raises(UserError, match="sample_rate: 22050 in vocoder hub:descriptinc"):
        load_vocoder("hub:descriptinc/melgan-neurips:load_melgan", PRESETS["sqvae16k"])


def test_no_network_says_what_helps(monkeypatch):
    def load(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load", load)
    with pytest.raises(
        UserError, match=r"cannot be fetched .* give a folder, hub:FOLDER:load_melgan; --vocoder griff"
    ):
        load_vocoder("hub:descriptinc/melgan-neurips:load_melgan", PRESETS["melgan22k"])


def test_two_channels_are_refused(tmp_path):
    vocoder = load_vocoder(f"hub:{repository(tmp_path / 'hub', OTHER)}:two_channels@melgan22k", PRESETS["melgan22k"])
    with pytest.raises(UserError, match=r"gave \(1, 2, 512\) for one mel"):
        vocoder.vocode(mels("melgan22k"))


# ---- pip's vocos

VOCOS = """
    import torch
    import yaml

    class Vocos(torch.nn.Module):
        def __init__(self, bands):
            super().__init__()
            self.head = torch.nn.ConvTranspose1d(bands, 1, 256, 256)

        @classmethod
        def from_hparams(cls, config_path):
            with open(config_path) as f:
                return cls(yaml.safe_load(f)["bands"])

        @classmethod
        def from_pretrained(cls, repo_id, revision=None):
            raise OSError(f"{repo_id} is nowhere")

        @torch.inference_mode()
        def decode(self, features_input, **kwargs):
            return self.head(features_input)[:, 0]
"""


@pytest.fixture
def vocos(tmp_path, monkeypatch) -> Path:
    (tmp_path / "vocos.py").write_text(textwrap.dedent(VOCOS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vocos", raising=False)
    import vocos

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.yaml").write_text("bands: 100\n")
    torch.save(vocos.Vocos(100).state_dict(), folder / "pytorch_model.bin")
    yield folder
    sys.modules.pop("vocos", None)


def test_vocos_from_a_folder(vocos):
    vocoder = load_vocoder(f"vocos:{vocos}", PRESETS["vocos24k"])
    assert vocoder.vocode(mels("vocos24k")).shape == (3, PRESETS["vocos24k"].num_samples(9))
    with pytest.raises(UserError, match="sample_rate: 24000"):
        load_vocoder("vocos", PRESETS["melgan22k"])
    with pytest.raises(UserError, match="charactr/vocos-mel-24khz cannot be had"):
        load_vocoder("vocos", PRESETS["vocos24k"])


def test_vocos_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "vocos", None)
    with pytest.raises(UserError, match="pip install vocos"):
        load_vocoder("vocos", PRESETS["vocos24k"])
