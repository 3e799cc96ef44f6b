"""The benchmark of vocoders: what it measures, and what it writes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from voice_fixtures import voice

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import bench_vocoder  # noqa: E402
from torchaudio_vocoder import TorchaudioVocoder  # noqa: E402

from sqvae_speech.audio.logmel import LogMel  # noqa: E402
from sqvae_speech.audio.melspec import PRESETS  # noqa: E402
from sqvae_speech.audio.wav import write_wav  # noqa: E402
from sqvae_speech.errors import UserError  # noqa: E402
from sqvae_speech.evaluation.voices.spectra import stft_distance  # noqa: E402
from sqvae_speech.models.pretrained_vocoder import VocoderBundle, save_vocoder  # noqa: E402
from sqvae_speech.models.vocoder_model import VocoderModel  # noqa: E402
from sqvae_speech.models.vocoder_network import VocoderConfig  # noqa: E402


def test_it_compares_vocoders_on_recordings(tmp_path, monkeypatch, capsys):
    for number in (1, 2):
        write_wav(tmp_path / "wavs" / f"u{number}.wav", voice(16000, 1.0 + 0.2 * number)[0].numpy(), 16000)
    torch.manual_seed(0)
    (tmp_path / "ours").mkdir()
    model = VocoderModel(VocoderConfig(channels=8, num_blocks=1), PRESETS["sqvae16k"])
    save_vocoder(tmp_path / "ours", VocoderBundle(model, step=7))
    names = ["griffin_lim:1", "griffin_lim:12", "torchaudio:2", f"istft:{tmp_path / 'ours'}"]
    words = ["--wavs", tmp_path / "wavs", "--output", tmp_path / "out" / "vocoder", "--rounds", 1]
    monkeypatch.setattr(sys, "argv", ["bench_vocoder.py", *map(str, words), "--vocoders", *names])
    assert bench_vocoder.main() == 0
    found = json.loads((tmp_path / "out" / "vocoder.json").read_text())
    assert found["recordings"] == ["u1", "u2"]
    assert found["seconds"] == pytest.approx(2.6)
    few, more, theirs, ours = found["vocoders"]
    assert theirs["name"] == "torchaudio:2"
    assert ours["name"] == "istft, 0.01 M weights, 7 steps, 8 + 3 rounds"
    for score, better in {"stft": -1, "mcd": -1, "pesq": 1, "stoi": 1}.items():
        assert better * more["scores"][score] > better * few["scores"][score], score
    assert few["xrt"] == pytest.approx(1 / few["real_time_factor"])
    report = (tmp_path / "out" / "vocoder.md").read_text()
    assert report in capsys.readouterr().out
    assert str(tmp_path) not in report
    assert "--vocoders griffin_lim:1 griffin_lim:12 torchaudio:2 istft:DIR" in report
    rows = ("| griffin", "| torchaudio", "| istft")
    assert len([line for line in report.splitlines() if line.startswith(rows)]) == 4


@pytest.mark.parametrize("name", ["sqvae16k", "vocos24k", "waveglow22k"])
def test_the_peer_of_torchaudio_has_the_length_and_the_level(name):
    spec = PRESETS[name]
    wav = torch.cat([voice(spec.sample_rate), 0.3 * voice(spec.sample_rate)])
    mel, lengths, peak = LogMel(spec)(wav, torch.tensor([wav.shape[1], wav.shape[1] // 2]))
    peer = TorchaudioVocoder(spec, rounds=20)
    made = peer.vocode(mel, peak, lengths)
    assert made.shape == (2, spec.num_samples(int(lengths[0])))
    for row, frames in enumerate(lengths.tolist()):
        samples = spec.num_samples(frames)
        assert not made[row, samples:].any()
        real, heard = wav[row, :samples], made[row, :samples]
        assert abs(20 * torch.log10(heard.norm() / real.norm())) < 2.0, "dB"
        torch.testing.assert_close(peer.vocode(mel[row, :, :frames], peak[row]), heard)
        assert stft_distance(real, heard * (real.norm() / heard.norm())).total < 0.9, "1.3 with pre-emphasis left in"


def test_the_peer_of_torchaudio_needs_centred_frames():
    with pytest.raises(UserError, match="melgan22k does not"):
        TorchaudioVocoder(PRESETS["melgan22k"])
