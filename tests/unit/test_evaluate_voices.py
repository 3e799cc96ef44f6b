"""``sqvae-speech evaluate voices`` on conversions that are known to be perfect, and on such as changed nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sqvae_speech.audio.wav import write_wav
from sqvae_speech.bin.main import main
from sqvae_speech.data.kaldi import DataDir, Interval, Utterance
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.voices.recordings import Corpus, read_log, recording_of, words_of

RATE = 16_000
PITCH = {"ann": 220.0, "bob": 105.0}
FORMANT = {"high": 2300.0, "low": 500.0}
START = 0.01  # s that a conversion loses at its beginning
OPTIONS = ["--train-steps", "60", "--f0-range", "80", "300", "--quiet"]


def word(speaker: str, label: str, rng: np.random.Generator) -> np.ndarray:
    """A word in a voice: pitch and the width of its formant are the speaker's, the formant the word's."""
    time = np.arange(round(rng.uniform(0.2, 0.3) * RATE)) / RATE
    pitch = PITCH[speaker] * rng.uniform(0.95, 1.05)
    wav = sum(
        np.exp(-(((k * pitch - FORMANT[label]) / (3 * PITCH[speaker])) ** 2)) * np.sin(2 * np.pi * k * pitch * time)
        for k in range(1, int(7000 / pitch))
    )
    return 0.3 * wav / np.abs(wav).max() * np.hanning(len(time)) ** 0.3 + 1e-4 * rng.standard_normal(len(time))


def say(folder: Path, speaker: str, number: int, labels: list[str], seed: int) -> Utterance:
    """Write a recording of some words, and what a data directory says of it."""
    rng = np.random.default_rng(seed)
    words = [word(speaker, label, rng) for label in labels]
    ends = np.cumsum([0, *map(len, words)]) / RATE
    name = f"{speaker}-{number}"
    write_wav(folder / f"{name}.wav", np.concatenate(words), RATE)
    ali = tuple(Interval(*ends[n : n + 2], label) for n, label in enumerate(labels))
    return Utterance(name, speaker, str(folder / f"{name}.wav"), 0.0, None, ends[-1], " ".join(labels), ali=ali)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Data directories to learn from and to score on, and two folders of conversions."""
    root = tmp_path_factory.mktemp("voices")
    orders = [["low", "high"], ["high", "low", "low"], ["high", "high"]]
    train = [say(root / "t", s, n, orders[n % 3], 100 * n + len(s) + ord(s[0])) for s in PITCH for n in range(8)]
    test = [say(root / "e", speaker, 51, orders[1], ord(speaker[0])) for speaker in PITCH]
    DataDir(train).write(root / "data" / "train")
    DataDir(test).write(root / "data" / "test")
    corpus = Corpus([root / "data" / "test"])
    for kind in ("perfect", "nothing"):
        lines = []
        for source in test:
            for target in PITCH:
                # the target's own recording is what a perfect conversion would be
                said = corpus.same_text(source.utterance_id, target) if kind == "perfect" else source.utterance_id
                wav = corpus[said].wav[round(START * RATE) :]
                name = f"{source.utterance_id}-to-{target}.wav"
                write_wav(root / kind / name, wav, RATE)
                lines.append(
                    {
                        "utterance_id": source.utterance_id,
                        "source_speaker": source.speaker,
                        "target_speaker": target,
                        "wav": name,
                        "start": START,
                    }
                )
        (root / kind / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SimpleNamespace(root=root, train=root / "data" / "train", test=root / "data" / "test")


def test_perfect_conversions_and_none(world, tmp_path, capsys):
    output = tmp_path / "voices.json"
    folders = [str(world.root / "perfect"), str(world.root / "nothing")]
    argv = ["evaluate", "voices", "--wavs", *folders, "--names", "perfect", "nothing", "--output", str(output)]
    assert main([*argv, "--data", str(world.test), "--train-data", str(world.train), *OPTIONS]) == 0
    values = json.loads(output.read_text())
    assert values["words"] == ["high", "low"]
    assert values["speakers"] == ["ann", "bob"]
    perfect, nothing = (values["folders"][name] for name in ("perfect", "nothing"))
    for folder in (perfect, nothing):
        for group in ("recorded", "resynthesised", "converted"):
            scores = folder["groups"][group]
            assert scores["recordings"] == 2
            assert scores["words"] == 6
        for group in ("recorded", "resynthesised"):
            assert folder["groups"][group]["words_recognised"] == 1.0
            assert folder["groups"][group]["in_voice"] == 1.0
            assert folder["groups"][group]["similarity_to_source"] is None
        assert folder["copies"]["distance"]["mcd"] < 1.0, "but for its beginning, it is the original"
        assert folder["truth"]["pairs"] == 2
    assert perfect["groups"]["converted"]["in_voice"] == 1.0
    assert perfect["groups"]["converted"]["in_each_voice"] == {"ann": 1.0, "bob": 1.0}
    assert perfect["groups"]["converted"]["words_in_voice"] == 1.0
    assert perfect["truth"]["factor"] > 3
    assert perfect["truth"]["nearer"] == 1.0
    assert perfect["truth"]["converted"]["cents"] < 100 < perfect["truth"]["source"]["cents"]
    assert nothing["groups"]["converted"]["in_voice"] == 0.0
    assert nothing["groups"]["converted"]["words_recognised"] == 1.0
    assert nothing["groups"]["converted"]["similarity_to_source"] > nothing["groups"]["converted"]["similarity"] + 0.5
    assert nothing["truth"]["factor"] == pytest.approx(1.0, abs=0.1)
    table = output.with_suffix(".md").read_text()
    assert table == capsys.readouterr().out.partition(f"\n{output}")[0]
    assert "| perfect, converted | 2 | 100.0% |" in table
    assert "| nothing, source | 2 |" in table


def test_the_words_of_a_conversion_lie_where_they_are_heard(world):
    corpus = Corpus([world.test])
    line = next(line for line in read_log(world.root / "nothing") if line.utterance_id == "ann-51")
    recording, source = recording_of(line, corpus), corpus["ann-51"]
    assert [one.label for one in recording.words] == ["high", "low", "low"]
    assert recording.text == "high low low"
    assert recording.words[0].onset == 0.0
    for here, there in zip(recording.words[1:], source.words[1:], strict=True):
        np.testing.assert_allclose(recording.cut(here), source.cut(there), atol=1e-4)


def test_words_of_a_data_directory():
    ali = (Interval(0.0, 0.1, "SIL"), Interval(0.1, 0.4, "No"), Interval(0.4, 0.9, "way"))
    spelt = Utterance("a", "a", "a.wav", duration=1.0, text="no way!", ali=ali)
    assert words_of(spelt) == (Interval(0.1, 0.4, "no"), Interval(0.4, 0.9, "way"))
    assert words_of(Utterance("a", "a", "a.wav", duration=1.0, text="Seven.")) == (Interval(0.0, 1.0, "seven"),)
    assert words_of(Utterance("a", "a", "a.wav", duration=1.0, text="two words")) == ()
    assert words_of(Utterance("a", "a", "a.wav", text=None)) == ()


def test_a_sample_of_the_training_recordings(world):
    corpus = Corpus([world.train])
    first, again = ([one.utterance_id for one in corpus.sample(3, 0)] for _ in range(2))
    assert first == again == sorted(first)
    assert [name.split("-")[0] for name in first] == ["ann"] * 3 + ["bob"] * 3
    assert [one.utterance_id for one in corpus.sample(3, 1)] != first
    assert len(list(corpus.sample(100, 0))) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--wavs", "{root}/nowhere"), "has no log.jsonl"),
        (("--data", "{train}", "--train-data", "{train}"), "is in --data and in --train-data"),
        (("--data", "{train}", "--train-data", "{test}"), "was converted and is not in --data"),
        (("--max-train", "0"), "--max-train 0"),
        (("--f0-range", "400", "65"), "--f0-range 400 65"),
        (("--speaker-model", "gone.pt"), "no such file"),
    ],
)
def test_errors_say_what_to_do(world, tmp_path, capsys, change, message):
    argv = ["evaluate", "voices", "--wavs", "{root}/perfect", "--data", "{test}", "--train-data", "{train}"]
    argv = [*argv, "--output", str(tmp_path / "o.json"), *OPTIONS, "--train-steps", "1", *change]
    assert main([word.format(**vars(world)) for word in argv]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_logs_that_are_none(tmp_path):
    good = {"utterance_id": "a", "source_speaker": "s", "target_speaker": "t", "wav": "a.wav", "start": 0.01}
    for line, message in (
        ("no", "1 is no line of"),
        (json.dumps({"utterance_id": "a"}), "KeyError"),
        (json.dumps(good | {"source_speaker": None}), "convert from shards"),
        (json.dumps(good | {"wav": None}), "lists no wav"),
    ):
        (tmp_path / "log.jsonl").write_text(line + "\n")
        with pytest.raises(UserError, match=message):
            read_log(tmp_path)
