"""``sqvae-speech lm``: scores against simple models, samples as units and as sound."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from unit_lm_fixtures import SPEAKERS, random_model, random_sequences, random_store
from units_world import SPEAKERS as VOICES
from units_world import make_model, make_world

from sqvae_speech.bin._cli import run
from sqvae_speech.bin.lm import main
from sqvae_speech.models.pretrained_unit_lm import UnitLmBundle, load_unit_lm, save_unit_lm
from sqvae_speech.models.unit_lm import UnitLm, UnitLmConfig
from sqvae_speech.units.blocks import UnitSequences, facts_of, vocabulary_of
from sqvae_speech.units.extract import encode_shards
from sqvae_speech.units.lm_scoring import sequence_nats
from sqvae_speech.units.store import deduplicate_store, read_units, write_units

LENGTHS = [7, 2, 20, 3, 9, 1]


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> SimpleNamespace:
    """A tokenizer, units that it made of recordings, and an untrained language model of them for its speakers."""
    world = make_world(tmp_path_factory.mktemp("world"))
    units = world.root / "units.parquet"
    encode_shards(world.bundle, world.shards, units, progress=False)
    return SimpleNamespace(
        tokenizer=world.model,
        units=units,
        lm=save_model(world.root / "lm", read_units(units), VOICES),
        root=world.root,
    )


def save_model(folder: Path, store, conditions=()) -> Path:
    torch.manual_seed(0)
    model = UnitLm(
        UnitLmConfig(dim=16, num_layers=1, num_heads=2, context=8), vocabulary_of(store.meta), len(conditions)
    )
    folder.mkdir()
    save_unit_lm(folder, UnitLmBundle(model, facts_of(store.meta), tuple(conditions)))
    return folder


def test_scores_are_those_of_the_models(tmp_path, capsys):
    train, held_out = random_store(LENGTHS, books=2), random_store(LENGTHS, books=2, seed=1)
    for name, store in (("train", train), ("test", held_out)):
        write_units(tmp_path / f"{name}.parquet", store, store.meta)
    lm = save_model(tmp_path / "lm", train, SPEAKERS)
    arguments = ["score", "--model", str(lm), "--train", str(tmp_path / "train.parquet")]
    arguments += ["--units", str(tmp_path / "test.parquet"), "--output", str(tmp_path / "out" / "lm.json")]
    assert main(arguments) == 0
    values = json.loads((tmp_path / "out" / "lm.json").read_text())
    (split,) = values["splits"]
    units = sum(LENGTHS)
    assert (split["split"], split["units"], split["seconds"]) == ("test", units, pytest.approx(units / 50))
    assert list(split["scores"]) == ["uniform", "unigram", "bigram", "transformer"]
    uniform = split["scores"]["uniform"]
    assert uniform["bits_per_code"] == pytest.approx(math.log2(5))
    assert uniform["bits_per_unit"] == pytest.approx(2 * math.log2(5))
    assert uniform["perplexity"] == pytest.approx(25)
    assert uniform["bits_per_second"] == pytest.approx(2 * math.log2(5) * 50)
    sequences = UnitSequences(held_out, vocabulary_of(held_out.meta), SPEAKERS)
    bits = sequence_nats(load_unit_lm(lm).model, sequences).sum() / math.log(2)
    assert split["scores"]["transformer"]["bits"] == pytest.approx(bits)
    assert split["scores"]["transformer"]["bits_per_second"] == pytest.approx(bits / (units / 50))
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "lm.md").read_text() in printed
    assert f"| test | uniform | {2 * math.log2(5):.3f} | {math.log2(5):.3f} | 25.00 |" in printed


def test_images_are_scored_in_bits_per_code(tmp_path):
    store = random_store([6] * 4, shape=(2, 3))
    write_units(tmp_path / "codes.parquet", store, store.meta)
    sequences = random_sequences([6] * 4, shape=(2, 3))
    (tmp_path / "lm").mkdir()
    save_unit_lm(tmp_path / "lm", UnitLmBundle(random_model(sequences, context=6), facts_of(store.meta)))
    arguments = ["score", "--model", str(tmp_path / "lm"), "--units", str(tmp_path / "codes.parquet")]
    assert main([*arguments, "--output", str(tmp_path / "lm.json")]) == 0
    (split,) = json.loads((tmp_path / "lm.json").read_text())["splits"]
    assert list(split["scores"]) == ["uniform", "transformer"], "without --train nothing is counted"
    assert split["scores"]["uniform"]["bits_per_code"] == pytest.approx(math.log2(5))
    assert main(["sample", "--model", str(tmp_path / "lm"), "--output", str(tmp_path / "out"), "--number", "3"]) == 0
    drawn = read_units(tmp_path / "out" / "units.parquet")
    assert drawn.meta == store.meta
    assert [units.num_units for units in drawn] == [6, 6, 6]


def test_samples_are_heard_in_the_voice_they_were_drawn_for(speech, tmp_path):
    arguments = ["sample", "--model", str(speech.lm), "--number", "4", "--max-units", "20"]
    assert main([*arguments, "--output", str(tmp_path), "--tokenizer", str(speech.tokenizer)]) == 0
    drawn = read_units(tmp_path / "units.parquet")
    assert drawn.meta == read_units(speech.units).meta
    assert [units.speaker for units in drawn] == [*VOICES, VOICES[0]], "in turn"
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    heard = [units for units in drawn if units.num_units]
    assert heard
    for line, units in zip(log, heard, strict=True):
        assert (line["utterance_id"], line["target_speaker"]) == (units.utterance_id, units.speaker)
        wav, rate = soundfile.read(tmp_path / line["wav"])
        assert len(wav) / rate == pytest.approx(units.num_units / 50, abs=0.02)
        assert np.abs(wav).max() > 1e-3
    assert main([*arguments, "--output", str(tmp_path / "again")]) == 0
    assert [u.codes.tolist() for u in read_units(tmp_path / "again" / "units.parquet")] == [
        u.codes.tolist() for u in drawn
    ], "the same seed, the same units"
    assert main([*arguments, "--output", str(tmp_path / "other"), "--seed", "1", "--speaker", "eve"]) == 0
    assert {units.speaker for units in read_units(tmp_path / "other" / "units.parquet")} == {"eve"}


def test_prompts_are_continued(speech, tmp_path):
    arguments = ["sample", "--model", str(speech.lm), "--prompts", str(speech.units), "--prompt-units", "6"]
    assert main([*arguments, "--output", str(tmp_path), "--number", "3", "--max-units", "15"]) == 0
    drawn, source = read_units(tmp_path / "units.parquet"), read_units(speech.units)
    assert len(drawn) == 3
    for units in drawn:
        original = source[units.utterance_id.removesuffix("-continued")]
        assert units.speaker == original.speaker
        assert units.codes[:, :6].tolist() == original.codes[:, :6].tolist()


def test_deduplicated_units_get_durations_that_their_codes_have(speech, tmp_path):
    store = deduplicate_store(read_units(speech.units))
    write_units(tmp_path / "runs.parquet", store, store.meta)
    lm = save_model(tmp_path / "lm", store)
    arguments = [
        "sample",
        "--model",
        str(lm),
        "--output",
        str(tmp_path / "out"),
        "--tokenizer",
        str(speech.tokenizer),
    ]
    assert main([*arguments, "--durations", str(tmp_path / "runs.parquet"), "--number", "2", "--max-units", "9"]) == 0
    seen: dict[int, set[int]] = {}
    for units in store:
        for code, duration in zip(units.codes[0].tolist(), units.durations.tolist(), strict=True):
            seen.setdefault(code, set()).add(duration)
    for units in read_units(tmp_path / "out" / "units.parquet"):
        for code, duration in zip(units.codes[0].tolist(), units.durations.tolist(), strict=True):
            assert duration in seen.get(code, {1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--speaker zoe", "speaker 'zoe' is not known to the language model"),
        ("--tokenizer {tokenizer} --speaker zoe", "speaker 'zoe' was not trained"),
        ("--number 0", "number 0; at least 1 is needed"),
        ("--max-units 0", "max_units 0; at least 1"),
        ("--temperature -1", "legal: temperature >= 0"),
        ("--top-p 0", "0 < top_p <= 1"),
        ("--top-k 0", "top_k 0; at least 1"),
        ("--prompts {units} --prompt-units 6 --number 99", "utterances of 6 units or more, 99 are wanted"),
        ("--durations {units}", "--durations is for deduplicated units"),
        ("--model {tokenizer}", "holds a model of kind 'speech', this needs one of kind 'unit_lm'"),
        ("--tokenizer {other}", "was made by checkpoint"),
    ],
)
def test_what_a_user_can_get_wrong(speech, tmp_path, capsys, options, message):
    if "{other}" in options:
        make_model(speech.root / "other", seed=5)
    words = options.format(tokenizer=speech.tokenizer, units=speech.units, other=speech.root / "other").split()
    assert run(main, ["sample", "--model", str(speech.lm), "--output", str(tmp_path / "out"), *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_units_of_another_kind_are_refused(speech, tmp_path, capsys):
    store = random_store(LENGTHS)
    write_units(tmp_path / "other.parquet", store, store.meta)
    arguments = ["score", "--model", str(speech.lm), "--units", str(tmp_path / "other.parquet")]
    assert run(main, [*arguments, "--output", str(tmp_path / "lm.json")]) == 1
    assert "codebook_size 32" in capsys.readouterr().err
