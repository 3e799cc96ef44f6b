"""``sqvae-speech speak``, and ``evaluate text-to-units``: texts in, wavs and scores out."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from units_world import make_world

from sqvae_speech.bin import evaluate, export
from sqvae_speech.bin._cli import run
from sqvae_speech.bin.speak import main
from sqvae_speech.bin.train import main as train
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.kaldi import DataDir, Interval
from sqvae_speech.data.reader import ShardReader
from sqvae_speech.evaluation.voices.cepstra import cepstral_distortion, mel_cepstra
from sqvae_speech.models.pretrained_text_to_units import BUNDLED, load_text_to_units
from sqvae_speech.units.extract import encode_shards
from sqvae_speech.units.store import read_units

ROOT = Path(__file__).resolve().parents[2]
SIZE = (
    "--no-progress --task text_to_units --model.dim 16 --model.num_layers 1 --model.text_layers 1 "
    "--model.num_heads 2 --training.batch_size 4 --training.num_steps 3 --training.warmup_steps 1 "
    "--training.num_plots 0 --model.max_runs 2 --model.max_duration 3"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tokenizer, units of recordings that say "say ann-1" and the like, and a model of these inside its folder."""
    made = make_world(tmp_path_factory.mktemp("world"))
    made.units = made.root / "units.parquet"
    encode_shards(made.bundle, made.shards, made.units, progress=False)
    made.speaker_model = made.model / "text_to_units"
    words = ["--exp-dir", str(made.speaker_model), "--data.train", str(made.units), *SIZE.split()]
    assert train(words) == 0
    return made


def test_a_text_becomes_a_wav(world, tmp_path, capsys):
    output = tmp_path / "out" / "x.wav"
    arguments = ["Say bob-1.".replace(".", ""), "--model", str(world.speaker_model), "--speaker", "bob", "--output"]
    assert main([*arguments, str(output), "--units", str(tmp_path / "x.jsonl")]) == 0
    wav, rate = soundfile.read(output)
    (record,) = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert rate == 16_000
    # two frames a unit; a wav of so many frames
    assert len(wav) == world.bundle.mel_spec.num_samples(2 * sum(record["durations"]))
    assert record["speaker"] == "bob"
    assert str(output) in capsys.readouterr().out
    before = output.read_bytes()
    assert main([*arguments, str(output)]) == 0
    assert output.read_bytes() == before, "always alike"


def test_lines_of_a_file_and_texts_of_a_store(world, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("say ann-1\n\nsay eve-2\n")
    arguments = ["--model", str(world.speaker_model), "--tokenizer", str(world.model), "--output"]
    assert main([*arguments, str(tmp_path / "file"), "--file", str(lines), "--speaker", "eve"]) == 0
    store = read_units(tmp_path / "file" / "units.parquet")
    assert [units.text for units in store] == ["say ann-1", "say eve-2"]
    assert store.ids == ["text-0001", "text-0002"]
    assert {path.name for path in (tmp_path / "file").glob("*.wav")} == {"text-0001.wav", "text-0002.wav"}
    assert main([*arguments, str(tmp_path / "like"), "--like", str(world.units), "--max", "2"]) == 0
    store, original = read_units(tmp_path / "like" / "units.parquet"), read_units(world.units)
    assert store.ids == [units.utterance_id for units in original if units.num_units][:2]
    assert all(units.speaker == original[units.utterance_id].speaker for units in store)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["say zzz", "--speaker", "ann"], "never read in training: 'z'. It knows: "),
        (["say ann-1", "--speaker", "anna"], "speaker 'anna' was not trained, did you mean 'ann'?"),
        (["say ann-1"], "--speaker is needed"),
        (["say ann-1", "--speaker", "ann", "--temperature", "-1"], "temperature 0 or more"),
        (["--file", "nothing.txt", "--speaker", "ann"], "nothing.txt"),
        (["say ann-1", "--speaker", "ann", "--tokenizer", "nowhere"], "no model at nowhere"),
    ],
)
def test_mistakes_are_one_message(world, tmp_path, capsys, arguments, message):
    assert run(main, [*arguments, "--model", str(world.speaker_model), "--output", str(tmp_path / "x.wav")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "x.wav").exists()


def test_a_model_of_other_units_is_refused(world, tmp_path, capsys):
    folder = tmp_path / "elsewhere" / "text_to_units"
    shutil.copytree(world.speaker_model, folder)
    arguments = ["say ann-1", "--speaker", "ann", "--output", str(tmp_path / "x.wav"), "--model"]
    assert run(main, [*arguments, str(folder)]) == 1
    assert "holds no speech model: give --tokenizer" in capsys.readouterr().err
    for config in folder.glob("checkpoints/step-*/config.json"):
        values = json.loads(config.read_text())
        config.write_text(json.dumps(values | {"units": values["units"] | {"checkpoint": "f" * 64}}))
    assert run(main, [*arguments, str(folder), "--tokenizer", str(world.model)]) == 1
    assert "was made by checkpoint ffffffffffff" in capsys.readouterr().err


def test_scores(world, tmp_path, capsys):
    """Alignments of two phones an utterance, the first half of it "a"."""
    data = DataDir.read(world.root / "data" / "test")
    halves = [
        replace(one, ali=(Interval(0.0, one.duration / 2, "a"), Interval(one.duration / 2, one.duration, "b")))
        for one in data
        if one.duration
    ]
    DataDir(halves).write(tmp_path / "aligned")
    output = tmp_path / "scores.json"
    arguments = ["text-to-units", "--model", str(world.speaker_model), "--train", str(world.units)]
    arguments += ["--units", str(world.units), "--data", str(tmp_path / "aligned"), "--output", str(output)]
    assert evaluate.main(arguments) == 0
    values = json.loads(output.read_text())
    scores = values["splits"]["units"]
    assert list(scores) == ["recording", "text to units", "bigram"]
    assert scores["recording"]["unit_error"] == 0
    assert scores["text to units"]["unit_error"] > 0
    assert all(0 <= score["phone_error"] < 10 for score in scores.values())
    assert all(score["distortion"] is None for score in scores.values())
    arguments += ["--tokenizer", str(world.model), "--shards", str(world.shards)]
    assert evaluate.main(arguments) == 0
    distortions = {
        name: score["distortion"] for name, score in json.loads(output.read_text())["splits"]["units"].items()
    }
    index = ShardIndex.load(world.shards)
    mels = {one.utterance_id: ShardReader(index).utterance(one).mel for one in index.entries()}
    of_each = []
    for units in read_units(world.units):
        if units.utterance_id != "bob-2":  # which is too short for what it should say
            decoded = world.bundle.model.decode(
                torch.from_numpy(units.codes), torch.tensor(["ann", "bob", "eve"].index(units.speaker))[None]
            )
            of_each.append(
                cepstral_distortion(mel_cepstra(80 * mels[units.utterance_id]), mel_cepstra(80 * decoded[0].numpy()))
            )
    assert distortions["recording"] == pytest.approx(np.mean(of_each), rel=1e-5)
    assert "| units | recording |" in capsys.readouterr().out
    assert Path(output).with_suffix(".md").exists()


# ---- the model that comes with the project


def test_the_bundled_model_speaks(tmp_path):
    """A sentence that it never read, as two of its voices, with the units of the bundled tokenizer."""
    text = "The old boy drank 3 cups of cold water, and slept."
    for speaker in ("p301", "p304"):
        output = tmp_path / f"{speaker}.wav"
        units = tmp_path / f"{speaker}.jsonl"
        arguments = [text, "--speaker", speaker, "--output", str(output), "--units", str(units)]
        assert main(arguments) == 0
        wav, rate = soundfile.read(output)
        assert 2.5 < len(wav) / rate < 7
        assert np.abs(wav).max() > 0.05
        assert len(set(json.loads(units.read_text())["codes"][0])) > 40, "it says something"
    first, second = (json.loads((tmp_path / f"{name}.jsonl").read_text())["codes"] for name in ("p301", "p304"))
    assert first != second
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 4e6


def test_the_mini_recipes_script_makes_what_is_bundled(world, tmp_path):
    script = ROOT / "egs" / "mini" / "local" / "bundle.sh"
    command = ["bash", str(script), "text_to_units", str(world.speaker_model), str(tmp_path / "out")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in BUNDLED.iterdir()
    )
    made, trained = load_text_to_units(tmp_path / "out"), load_text_to_units(world.speaker_model)
    assert (made.symbols, made.speakers, made.units) == (trained.symbols, trained.speakers, trained.units)
    for name, weight in trained.model.state_dict().items():
        torch.testing.assert_close(made.model.state_dict()[name], weight, rtol=1e-3, atol=1e-3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| speakers | 3: ann, bob, eve |" in card
    assert "| training | 3 steps |" in card


def test_it_is_exported_as_a_folder_only(world, tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        export.main(["--model", str(world.speaker_model), "--output", str(tmp_path / "x.onnx")])
    assert raised.value.code == 2
    assert "a text-to-units model is exported with --format bundle" in capsys.readouterr().err
