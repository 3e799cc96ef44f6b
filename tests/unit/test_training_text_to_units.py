"""Training of text to units on the loop that speech trains on, and what the model then says."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from spoken_text_fixtures import SIZE, SPEAKERS, spoken_store, units_of

from sqvae_speech.bin._cli import run
from sqvae_speech.bin.train import main
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.edit_distance import edit_distance
from sqvae_speech.evaluation.text_to_units_scores import score_text_to_units
from sqvae_speech.models.pretrained_text_to_units import load_text_to_units
from sqvae_speech.training.metrics_log import read_metrics
from sqvae_speech.training.task import Place
from sqvae_speech.training.text_to_units import TextToUnitsTask
from sqvae_speech.training.text_to_units_config import SpokenTextConfig, TextToUnitsTrainConfig
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.store import UnitStore, read_units, store_of, write_units
from sqvae_speech.units.text_speaking import speak_texts

SMALL = (
    "--no-progress --task text_to_units --model.dim 16 --model.num_layers 1 --model.text_layers 1 "
    "--model.num_heads 2 --training.batch_size 4 --training.log_interval 1 --training.valid_interval 4 "
    "--training.num_plots 0 --training.warmup_steps 3 --training.learning_rate 1e-2 --training.schedule constant"
)


def saved(path: Path, store: UnitStore) -> Path:
    write_units(path, store, store.meta)
    return path


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return saved(tmp_path / "train.parquet", spoken_store(10))


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    return saved(tmp_path / "valid.parquet", spoken_store(5, seed=1))


def words(exp_dir: Path, train: Path, valid: Path, *more: str) -> list[str]:
    data = ["--exp-dir", str(exp_dir), "--data.train", str(train), "--data.valid", str(valid)]
    return [*data, *(word for text in (SMALL, *more) for word in text.split())]


def rows(exp_dir: Path, split: str) -> list[dict]:
    return [row for row in read_metrics(exp_dir / "metrics.jsonl") if row["split"] == split]


def test_a_run_interrupted_and_resumed_is_the_run_never_interrupted(train, valid, tmp_path):
    assert main(words(tmp_path / "whole", train, valid, "--training.num_steps 6")) == 0
    for steps in (4, 6):
        assert main(words(tmp_path / "parts", train, valid, f"--training.num_steps {steps}")) == 0
    for split in ("train", "valid"):
        names = ("step", "loss", "counts", "codes", "durations")
        whole, parts = (
            [[row[name] for name in names] for row in rows(tmp_path / run, split)] for run in ("whole", "parts")
        )
        assert whole[-1] == parts[-1]
        assert split == "valid" or whole == parts
    last = Path("checkpoints") / "step-00000006" / "model.safetensors"
    expected, got = (load_file(tmp_path / name / last) for name in ("whole", "parts"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_it_learns_to_say_texts_that_it_never_read(tmp_path):
    """With a letter that is not heard, codes that depend on the speaker, durations that depend on the letter."""
    train = saved(tmp_path / "train.parquet", spoken_store(60))
    size = "--model.dim 32 --model.dropout 0 --training.batch_size 16 --training.learning_rate 5e-3"
    steps = "--training.num_steps 150 --training.valid_interval 150 --training.log_interval 50"
    assert main(words(tmp_path / "exp", train, train, size, steps)) == 0
    bundle = load_text_to_units(tmp_path / "exp")
    test = spoken_store(12, seed=7, length=9)
    assert not {units.text for units in test} & {units.text for units in read_units(train)}
    said = speak_texts(bundle, [units.text or "" for units in test], [units.speaker for units in test])
    edits = runs = off = 0
    for one, real in zip(said, map(deduplicate, test), strict=True):
        edits += edit_distance(one.codes[0].tolist(), real.codes[0].tolist())
        runs += real.num_units
        off += abs(one.total_units - real.total_units)
        assert (one.text, one.speaker) == (real.text, real.speaker)
    assert edits / runs < 0.05
    assert off / sum(units.total_units for units in test) < 0.1

    scores = score_text_to_units(bundle, test, read_units(train))
    assert scores["recording"].unit_error == 0
    assert scores["recording"].duration_ratio == 1
    assert scores["text to units"].unit_error == pytest.approx(edits / runs)
    assert scores["bigram"].unit_error > 0.4
    assert "another voice" not in scores
    both = store_of([units_of("abdac", speaker) for speaker in SPEAKERS], test.meta, "both")
    scores = score_text_to_units(bundle, both, read_units(train))
    assert scores["another voice"].unit_error > 0.5, "codes depend on the speaker"
    assert scores["another voice"].duration_ratio == 1


def test_two_processes_see_the_batch_of_one(train, valid):
    config = TextToUnitsTrainConfig(data=SpokenTextConfig(str(train), str(valid)))
    whole = next(iter(TextToUnitsTask(config, Place()).loader))
    halves = [next(iter(TextToUnitsTask(config, Place(rank, 2)).loader)) for rank in (0, 1)]
    for name in ("text", "speaker", "text_lengths"):
        assert torch.equal(whole[name], torch.cat([half[name] for half in halves]))


def test_utterances_without_what_is_needed_are_left_out_and_told(tmp_path, caplog):
    store = spoken_store(4)
    more = [
        replace(next(iter(store)), utterance_id="silent", text=None),
        replace(next(iter(store)), utterance_id="long", text="ab" * 100),
        UtteranceUnits("empty", np.zeros((1, 0), int), "ann", text="ab"),
    ]
    train = saved(tmp_path / "train.parquet", store_of([*store, *more], store.meta))
    odd = replace(units_of("ab", "ann"), text="abz")
    valid = saved(tmp_path / "valid.parquet", store_of([odd, units_of("ba", "ann")], store.meta))
    with caplog.at_level(logging.WARNING):
        task = TextToUnitsTask(TextToUnitsTrainConfig(data=SpokenTextConfig(str(train), str(valid))), Place())
    assert len(task.loader.texts) == 4
    assert task.valid is not None
    assert len(task.valid) == 1
    assert "2 utterances left out (no text, or no units), such as silent" in caplog.text
    assert "1 utterances left out (a text too long for its recording), such as long" in caplog.text
    assert "1 utterances left out (symbols that training has not: z), such as ann-ab" in caplog.text


def error(arguments: list[str], capsys) -> str:
    assert run(main, arguments) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message[message.index("error: ") :]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.text letters", "data.text must be one of characters, phones, got 'letters'"),
        ("--data.condition text", "data.condition must be one of none, speaker, got 'text'"),
        ("--model.max_runs 0", "max_runs must be at least 1"),
        ("--data.train nowhere.parquet", "nowhere.parquet: no such unit store"),
    ],
)
def test_a_bad_setting_is_one_message(train, valid, tmp_path, capsys, option, message):
    assert message in error(words(tmp_path / "exp", train, valid, option), capsys)


def test_stores_that_cannot_be_spoken(train, valid, tmp_path, capsys):
    bare = spoken_store(3)
    other = saved(tmp_path / "bare.parquet", store_of([replace(one, text=None) for one in bare], bare.meta))
    message = error(words(tmp_path / "exp", other, valid), capsys)
    assert "has no utterance with a text that can be said (3: no text, or no units)" in message
    stranger = saved(tmp_path / "eve.parquet", store_of([replace(one, speaker="eve") for one in bare], bare.meta))
    message = error(words(tmp_path / "exp", train, stranger), capsys)
    assert "(3: speakers that training has not). Texts" in message
    assert "--data.condition none" in message


def test_a_checkpoint_of_other_texts_or_another_model_is_refused(train, valid, tmp_path, capsys):
    assert main(words(tmp_path / "exp", train, valid, "--training.num_steps 2")) == 0
    assert "model.dim: 16 there, 32 here" in error(words(tmp_path / "exp", train, valid, "--model.dim 32"), capsys)
    message = error(words(tmp_path / "exp", train, valid, "--data.condition none"), capsys)
    assert "was trained on other units, texts or speakers" in message


def test_speaking_refuses_what_is_not_known(train, valid, tmp_path):
    assert main(words(tmp_path / "exp", train, valid, "--training.num_steps 1")) == 0
    bundle = load_text_to_units(tmp_path / "exp")
    assert bundle.units["deduplicated"] is True
    assert bundle.units["codebook_size"] == SIZE
    with pytest.raises(UserError, match=r"speaker 'anne' is not known .*did you mean 'ann'"):
        speak_texts(bundle, ["ab"], ["anne"])
    with pytest.raises(UserError, match="'abxy' has what the model never read in training: 'x', 'y'"):
        speak_texts(bundle, ["abxy"], ["ann"])
    with pytest.raises(UserError, match="rate 0"):
        speak_texts(bundle, ["ab"], ["ann"], rate=0)
