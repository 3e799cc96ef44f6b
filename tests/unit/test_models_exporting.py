"""Exported tokenizers: the graph against the tokenizer, onnxruntime and AOTInductor against both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from documentation import ROOT, blocks, run_python
from units_world import make_model, voice

from sqvae_speech.audio.logmel import LogMel
from sqvae_speech.audio.melspec import MelSpec
from sqvae_speech.bin.main import main
from sqvae_speech.errors import UserError
from sqvae_speech.models import exporting
from sqvae_speech.models.exported import ExportedTokenizer
from sqvae_speech.models.graph import GraphLogMel, WavToUnits, least_samples
from sqvae_speech.tokenizer import SpeechTokenizer

PRESETS = ["sqvae16k", "melgan22k", "waveglow22k", "vocos24k"]
KINDS = {
    "type I": {"covariance": "global"},
    "type II": {"covariance": "sample"},
    "VQ": {"kind": "vq"},
    "vMF": {"kind": "vmf"},
    "residual": {"num_quantizers": 2},
    "grouped": {"num_groups": 2},
}
SECONDS = (0.9, 0.5, 0.031, 0.7312, 0.004)


def wavs_of(sample_rate: int) -> list[np.ndarray]:
    return [voice(seconds, number, sample_rate).astype(np.float32) for number, seconds in enumerate(SECONDS)]


def in_noise(wavs: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded with what must not be looked at."""
    lengths = torch.tensor([len(wav) for wav in wavs])
    padded = torch.randn(len(wavs), int(lengths.max()), generator=torch.Generator().manual_seed(0))
    for row, wav in zip(padded, wavs, strict=True):
        row[: len(wav)] = torch.from_numpy(wav)
    return padded, lengths


def uneven(**changes) -> MelSpec:
    """What no preset has: odd sizes, powers, zeros for padding."""
    settings = {**MelSpec.preset("vocos24k").to_dict(), "name": "odd", "power": 2.0, "n_fft": 1023, "win_length": 801}
    return MelSpec.from_dict({**settings, "pad_mode": "constant", "preemphasis": 0.9, **changes})


@pytest.mark.parametrize("spec", [*map(MelSpec.preset, PRESETS), uneven()], ids=[*PRESETS, "odd"])
def test_the_graphs_log_mel_is_the_log_mel(spec):
    wavs = wavs_of(spec.sample_rate)
    wavs[1] *= 1e-3
    wavs[3][:] = 0.0  # silence has no peak to be divided by
    wav, lengths = in_noise(wavs)
    mel, frames = GraphLogMel(spec)(wav, lengths)
    assert frames.tolist() == [spec.num_frames(len(one)) for one in wavs]
    long_enough = lengths >= spec.min_samples
    expected = LogMel(spec)(wav[long_enough], lengths[long_enough])
    size = expected.mel.shape[2]
    torch.testing.assert_close(mel[long_enough, :, :size], expected.mel, rtol=1e-6, atol=1e-6)
    assert not mel[~long_enough].any()
    assert mel.shape[2] == size + size % 2


@pytest.mark.parametrize("name", [*PRESETS, *KINDS])
def test_the_graph_gives_the_tokenizers_units(tmp_path, name):
    bundle = make_model(tmp_path, name if name in PRESETS else "sqvae16k", **KINDS.get(name, {}))
    tokenizer = SpeechTokenizer(bundle)
    wavs = wavs_of(tokenizer.sample_rate)
    units = tokenizer.encode(wavs, tokenizer.sample_rate)
    with torch.no_grad():
        codes, lengths = WavToUnits(bundle)(*in_noise(wavs))
    assert torch.equal(codes, units.codes)
    assert torch.equal(lengths, units.lengths)
    assert lengths[-1] == 0


def check_exported(tokenizer: SpeechTokenizer, exported: ExportedTokenizer) -> None:
    """In company, alone, and at every number of frames that a batch's length can have."""
    rate = tokenizer.sample_rate
    assert exported.sample_rate == rate
    wavs = wavs_of(rate)
    units = tokenizer.encode(wavs, rate)
    for number, codes in enumerate(exported.encode(wavs)):
        np.testing.assert_array_equal(codes, units[number].numpy())
    least = exported.facts["least_samples"]
    for samples in range(least, least + 4 * tokenizer.mel_spec.hop_length, 97):
        np.testing.assert_array_equal(
            exported.encode([wavs[0][:samples]])[0], tokenizer.encode(wavs[0][:samples], rate)[0].numpy()
        )


def check_documented(tokenizer: SpeechTokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/deployment.md, on the file that was exported."""
    monkeypatch.chdir(folder)
    soundfile.write("speech.wav", voice(0.6, 2), 16_000, subtype="FLOAT")
    names = run_python(blocks(ROOT / "docs" / "deployment.md", "python"))
    units = tokenizer.encode("speech.wav")
    np.testing.assert_array_equal(names["units"], units[0].numpy())
    np.testing.assert_allclose(names["starts"], units.times[:, 0].numpy())


def test_the_command_writes_what_onnxruntime_runs_with_the_same_units(tmp_path, capsys, monkeypatch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    bundle = make_model(tmp_path / "model", num_quantizers=2)
    tokenizer = SpeechTokenizer(bundle)
    wavs = [str(tmp_path / f"{number}.wav") for number in range(2)]
    for number, path in enumerate(wavs):
        soundfile.write(path, voice(0.5, number, 22_050), 22_050)
    target = tmp_path / "out" / "units.onnx"
    command = ["export", "--model", str(tmp_path / "model"), "--output", str(target), "--check", *wavs]
    assert main(command) == 0
    files = [target, target.with_name("units.onnx.json")]
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == ["0 of 48 units differ, 0 of them near ties of two codes", *map(str, files)]
    assert files == sorted(target.parent.iterdir())  # and nothing half-written
    check_exported(tokenizer, ExportedTokenizer(files[0]))
    check_documented(tokenizer, target.parent, monkeypatch)
    model = onnx.load(files[0])
    onnx.checker.check_model(model, full_check=True)
    assert [one.version for one in model.opset_import if one.domain == ""] == [exporting.OPSET]
    inside = {prop.key: prop.value for prop in model.metadata_props}
    beside = json.loads(files[1].read_text())
    assert beside["opset"] == exporting.OPSET
    for facts in (inside, beside):
        assert facts["checkpoint"] == bundle.fingerprint
        spec = facts["mel_spec"]
        assert MelSpec.from_dict(json.loads(spec) if isinstance(spec, str) else spec) == bundle.mel_spec
    assert (beside["codebook_size"], beside["num_codebooks"], beside["frame_rate"]) == (32, 2, 50.0)
    times = tokenizer.encode(wavs_of(16_000)[0], 16_000).times
    torch.testing.assert_close(
        beside["first_unit_seconds"] + beside["unit_seconds"] * torch.arange(len(times), dtype=torch.float64),
        times[:, 0],
    )
    shapes = [
        [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in model.graph.output
    ]
    assert shapes == [["batch", 2, "units"], ["batch"]]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "kind"), [("melgan22k", "VQ"), ("vocos24k", "grouped")])
def test_onnxruntime_for_other_features_and_quantizers(tmp_path, preset, kind):
    """Of the graphs that the tests above compare, those least alike."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    tokenizer = SpeechTokenizer(make_model(tmp_path, preset, **KINDS[kind]))
    check_exported(tokenizer, ExportedTokenizer(tokenizer.export_onnx(tmp_path / "units.onnx")[0]))


IN_ANOTHER_PROCESS = """
import sys
import numpy as np
import torch

package, wav, out = sys.argv[1:]
wav = torch.from_numpy(np.load(wav))[None]
codes, lengths = torch._inductor.aoti_load_package(package)(wav, torch.tensor([wav.shape[1]]))
np.save(out, codes[0].numpy())
assert not any(name.startswith("sqvae_speech") for name in sys.modules)
"""


@pytest.mark.slow
def test_a_compiled_package_needs_none_of_our_code(tmp_path):
    tokenizer = SpeechTokenizer(make_model(tmp_path / "model"))
    try:
        package, facts = tokenizer.export_compiled(tmp_path / "units.pt2")
    except UserError as error:
        pytest.skip(str(error))
    check_exported(tokenizer, ExportedTokenizer(package))
    assert json.loads(facts.read_text())["codebook_size"] == 32
    wav = wavs_of(tokenizer.sample_rate)[0]
    np.save(tmp_path / "wav.npy", wav)
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, package, tmp_path / "wav.npy", tmp_path / "codes.npy"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = tokenizer.encode(wav, tokenizer.sample_rate)[0].numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), expected)


def test_what_is_missing_is_one_message(tmp_path, monkeypatch, capsys):
    bundle = make_model(tmp_path / "model")
    with pytest.raises(UserError, match=r"does not end in \.onnx"):
        exporting.export_onnx(bundle, tmp_path / "units.bin")
    command = ["export", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "units.zip")]
    assert main(command) == 1
    assert "does not end in .onnx" in capsys.readouterr().err
    assert main([*command, "--check", str(tmp_path / "nowhere.wav")]) == 1
    assert "nowhere.wav: no such recording" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main([*command, "--licence", "mit"])  # which an ONNX file has no place for
    assert left.value.code == 2
    with pytest.raises(UserError, match=r"does not end in \.pt2"):
        exporting.export_compiled(bundle, tmp_path / "units")
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # importing it fails
    with pytest.raises(UserError, match=r"not here \(onnxscript\): pip install 'sqvae_speech\[onnx\]'"):
        exporting.export_onnx(bundle, tmp_path / "units.onnx")
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.*--format onnx needs none"):
        exporting.export_compiled(bundle, tmp_path / "units.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(UserError, match=r"end in \.onnx or \.pt2"):
        ExportedTokenizer(tmp_path / "units.bin")
    with pytest.raises(UserError, match="no exported tokenizer at"):
        ExportedTokenizer(tmp_path / "units.onnx")
    (tmp_path / "units.onnx").write_bytes(b"not ONNX")
    (tmp_path / "units.onnx.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be loaded|needs onnxruntime"):
        ExportedTokenizer(tmp_path / "units.onnx")


def test_near_ties_are_those_that_a_second_look_decides(tmp_path):
    bundle = make_model(tmp_path)
    tokenizer = SpeechTokenizer(bundle)
    batch = [voice(0.9, 1).astype(np.float32), voice(0.4, 2).astype(np.float32), np.zeros(100, np.float32)]
    units = tokenizer.encode(batch, 16_000)
    before = tokenizer.near_ties(batch, 16_000)
    assert [len(one) for one in before] == units.lengths.tolist() == [44, 19, 0]
    assert not before[0][7]
    latents, _ = tokenizer.network.latents(tokenizer.logmel(torch.from_numpy(batch[0])[None]).mel)
    chosen, codebook = int(units[0][0, 7]), tokenizer.network.quantizer.codebook
    codebook[(chosen + 1) % 32] = 2 * latents[0, 7] - codebook[chosen]  # as far away, on the other side
    assert tokenizer.near_ties(batch, 16_000)[0][7]


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_bundles(tmp_path, capsys, weights):
    bundle = make_model(tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", voice(0.5, 1), 16_000)
    target = tmp_path / "bundled"
    command = ["export", "--model", str(tmp_path / "model"), "--output", str(target), "--format", "bundle"]
    command += ["--weights", weights, "--check", str(tmp_path / "a.wav"), "--licence", "cc0-1.0", "--name", "mini"]
    result = main([*command, "--data", "a small corpus"])
    said = capsys.readouterr()
    before = SpeechTokenizer(bundle).encode(tmp_path / "a.wav")
    rounded = SpeechTokenizer(bundle.rounded(weights)).encode(tmp_path / "a.wav")
    changed = int((before.codes != rounded.codes).sum())
    assert f"{changed} of 24 units differ" in said.out
    if changed:
        assert (result, weights) == (1, "float16")
        assert "leave out --weights float16" in said.err
        SpeechTokenizer(bundle).save_pretrained(target, weights=weights)
    else:
        assert result == 0
        card = (target / "README.md").read_text(encoding="utf-8")
        for fact in ("license: cc0-1.0", "| data | a small corpus |", 'from_pretrained("mini")'):
            assert fact in card, fact
    loaded = SpeechTokenizer.from_pretrained(target)
    assert loaded.bundle.model.encoder.head.weight.dtype == torch.float32
    assert torch.equal(loaded.encode(tmp_path / "a.wav").codes, rounded.codes)
    size = os.path.getsize(target / "model.safetensors") / os.path.getsize(tmp_path / "model" / "model.safetensors")
    assert size == 1 if weights == "float32" else 0.5 < size < 0.75


def test_float16_without_a_check_is_refused(tmp_path):
    make_model(tmp_path / "model")
    with pytest.raises(SystemExit) as left:
        main(
            [
                "export",
                "--model",
                str(tmp_path / "model"),
                "--output",
                "x",
                "--format",
                "bundle",
                "--weights",
                "float16",
            ]
        )
    assert left.value.code == 2
    with pytest.raises(UserError, match=r"weights 'float8'.*legal: float32, float16"):
        SpeechTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "x", weights="float8")


def test_a_graph_has_a_least_length():
    assert least_samples(MelSpec.preset("sqvae16k")) == 800
