"""What can be heard in a report: the recordings themselves, and what the model makes of them."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import soundfile
import yaml
from report_world import config
from test_report_page import Outline
from units_world import make_world, voice

from sqvae_speech.audio.vocoder import GriffinLim
from sqvae_speech.bin.main import main
from sqvae_speech.data.index import Entry
from sqvae_speech.errors import UserError
from sqvae_speech.reporting.speech_examples import choose, speech_examples


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run whose shards and recordings lie as a recipe leaves them."""
    world = make_world(tmp_path_factory.mktemp("heard"))
    (world.root / "dump" / "sqvae16k").mkdir()
    shutil.move(world.shards, world.root / "dump" / "sqvae16k" / "test")
    world.shards = world.root / "dump" / "sqvae16k" / "test"
    run = world.root / "exp" / "run"
    shutil.copytree(world.model, run / "checkpoints" / "step-00000007")
    (run / "checkpoints" / "latest").write_text("step-00000007\n")
    values = config()
    values["data"] = {"train": str(world.shards.with_name("train")), "valid": str(world.shards)}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    world.run = run
    return world


def sound(voice) -> np.ndarray:
    return soundfile.read(io.BytesIO(base64.b64decode(voice.sound.partition("base64,")[2])))[0]


def test_voices_side_by_side(world):
    vocoder = GriffinLim(world.bundle.mel_spec, n_iter=2)
    examples = speech_examples(world.bundle, world.shards, vocoder, count=3)
    assert [example.title for example in examples] == ["ann-1", "bob-1", "eve-1"], "one a speaker"
    first = examples[0]
    assert first.text == "say ann-1"
    assert [voice.label for voice in first.voices] == [
        "Recording of ann", "Its log-mel, vocoded", "Units, as ann", "Units, converted to eve",
    ]  # fmt: skip
    assert np.abs(sound(first.voices[0]) - voice(0.61, 0)).max() < 2e-4, "the recording itself"
    lengths = [len(sound(one)) for one in first.voices]
    assert max(lengths) - min(lengths) < 1000
    assert all(one.picture.startswith("data:image/png") for one in first.voices)
    assert "unit" in first.strip

    asked = speech_examples(world.bundle, world.shards, vocoder, count=1, target_speaker="bob")
    assert asked[0].voices[-1].label == "Units, converted to bob"
    with pytest.raises(UserError, match="was not trained"):
        speech_examples(world.bundle, world.shards, vocoder, target_speaker="nobody")


def test_without_recordings_the_vocoder_is_heard(world, tmp_path):
    shards = tmp_path / "test"
    shutil.copytree(world.shards, shards)
    (example,) = speech_examples(world.bundle, shards, GriffinLim(world.bundle.mel_spec, n_iter=2), count=1)
    assert example.voices[0].label == "Its log-mel, vocoded"


def test_the_choice_of_utterances():
    def entries(*lengths):
        return [Entry(f"{s}{n}", s, frames, 0, (0, 0), (0, 0)) for n, (s, frames) in enumerate(lengths)]

    def chosen(pool, count):
        return [entry.utterance_id for entry in choose(pool, count, longest=100, shortest=4)]

    many = entries(*((speaker, 50) for speaker in "abcdef" for _ in range(2)))
    assert chosen(many, 3) == ["a0", "c5", "e8"], "spread over the speakers, something else of each"
    assert chosen(many[:2], 3) == ["a0", "a1"], "a second of a speaker, where there are no others"
    assert chosen(entries(("a", 200), ("a", 90), ("b", 2)), 2) == ["a1", "a0"], "one that fits comes first"
    assert chosen(entries(("b", 2)), 2) == []


def test_the_command_makes_examples_of_the_run(world, capsys):
    assert main(["report", str(world.run), "--examples", "1"]) == 0
    page = Outline((world.run / "report.html").read_text())
    assert "Recording of ann" in page.texts
    assert len(page.all("audio")) == 4
    assert "Griffin-Lim" in page.text

    config = yaml.safe_load((world.run / "config.yaml").read_text())
    config["data"]["valid"] = "/nowhere"
    other = world.root / "exp" / "other"
    shutil.copytree(world.run, other)
    (other / "config.yaml").write_text(json.dumps({**config, "data": {"train": "/nowhere", "valid": "/nowhere"}}))
    assert main(["report", str(other)]) == 0
    assert "give others with --shards" in Outline((other / "report.html").read_text()).text
    assert main(["report", str(other), "--shards", str(world.shards), "--target-speaker", "nobody"]) == 1
    assert "was not trained" in capsys.readouterr().err
