"""Extraction in parts: the same store whatever the division of labour, and a killed run goes on where it stopped."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from units_world import SECONDS, make_world, voice

from sqvae_speech.bin.main import main
from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.data.shard_folder import Bad
from sqvae_speech.errors import UserError
from sqvae_speech.models.inference import for_inference
from sqvae_speech.models.wavs import WavReader
from sqvae_speech.units import extract_wavs
from sqvae_speech.units.extract import encode_shards
from sqvae_speech.units.extract_wavs import encode_data_dir
from sqvae_speech.units.parts import PartUnits, Processes, divide, encode_in_parts
from sqvae_speech.units.sequences import UtteranceUnits
from sqvae_speech.units.store import UnitStoreMeta, read_units

META = UnitStoreMeta(codebook_size=100)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("parts"))


def encode_names(names):
    return PartUnits([UtteranceUnits(name, np.array([[len(name), 1]])) for name in names])


def run(output: Path, parts, encode=encode_names, **options) -> bool:
    options.setdefault("description", lambda: {"model": "a"})
    return encode_in_parts(output, META, parts, encode, options.pop("description"), progress=False, **options)


def test_divide_keeps_order_and_size():
    parts = divide([5, 1, 1, 9, 2, 3], lambda size: size, 6)
    assert parts == [[5, 1], [1, 9], [2, 3]]
    assert divide([9, 9], lambda size: size, 1) == [[9], [9]]
    assert divide([], lambda size: size, 1) == []


def test_processes_share_the_parts_and_the_first_joins_them(tmp_path):
    output = tmp_path / "u.parquet"
    parts = [["a"], ["bb", "ccc"], ["dddd"]]
    done = {0: [], 1: []}

    def work(rank):
        def encode(names):
            names = list(names)
            done[rank].append(names)
            return encode_names(names)

        return encode

    # what the processes do, one after the other: the second begins when the first waits for it
    def second():
        if not done[1]:
            assert not run(output, parts, work(1), processes=Processes(1, 2))

    waits = iter([lambda: None, second])
    assert run(output, parts, work(0), processes=Processes(0, 2, lambda: next(waits)()))
    assert done == {0: [["a"], ["dddd"]], 1: [["bb", "ccc"]]}
    assert read_units(output).ids == ["a", "bb", "ccc", "dddd"]
    assert [path.name for path in tmp_path.iterdir()] == ["u.parquet"]
    run(tmp_path / "alone.parquet", parts)
    assert output.read_bytes() == (tmp_path / "alone.parquet").read_bytes()


def test_a_killed_run_goes_on(tmp_path, caplog):
    output, parts = tmp_path / "u.parquet", [["a"], ["bb"], ["ccc"]]
    seen = []

    def encode(names):
        names = list(names)
        seen.append(names)
        if names == ["bb"] and len(seen) == 2:
            raise KeyboardInterrupt
        return encode_names(names)

    with pytest.raises(KeyboardInterrupt):
        run(output, parts, encode)
    assert not output.exists()
    caplog.set_level("INFO")
    run(output, parts, encode)
    assert seen == [["a"], ["bb"], ["bb"], ["ccc"]]
    assert "1 of 3 parts are there" in caplog.text
    assert read_units(output).ids == ["a", "bb", "ccc"]


def test_parts_of_other_units_are_thrown_away(tmp_path):
    output, parts = tmp_path / "u.parquet", [["a"], ["bb"]]

    def interrupt(names):
        names = list(names)
        if names == ["bb"]:
            raise KeyboardInterrupt
        return PartUnits([UtteranceUnits("old", np.array([[3]]))])

    with pytest.raises(KeyboardInterrupt):
        run(output, parts, interrupt)
    run(output, parts, description=lambda: {"model": "b"})
    assert read_units(output).ids == ["a", "bb"]


def test_bad_utterances_are_counted_over_all_parts_and_tried_again(tmp_path, caplog):
    output, parts = tmp_path / "u.parquet", [["a"], ["bb", "x"], ["y"], ["zz"]]
    tried = []

    def encode(names):
        names = list(names)
        tried.append(names)
        good = [name for name in names if name not in "xy"]
        return PartUnits(encode_names(good).units, [Bad(name, "torn") for name in names if name in "xy"])

    with pytest.raises(UserError, match=r"2 utterances cannot be encoded \(--max-bad 1\); the first is 'x': torn"):
        run(output, parts, encode, max_bad=1)
    assert not output.exists()
    assert run(output, parts, encode, max_bad=2)
    assert tried[4:] == [["bb", "x"], ["y"]]
    assert read_units(output).ids == ["a", "bb", "zz"]
    assert "y: left out: torn" in caplog.text


def test_shards_and_recordings_give_the_same_store(world, tmp_path):
    encode_shards(world.bundle, world.shards, tmp_path / "a.parquet", progress=False)
    encode_shards(world.bundle, world.shards, tmp_path / "b.parquet", part_frames=1, progress=False)
    encode_data_dir(world.bundle, world.root / "data" / "test", tmp_path / "c.parquet", progress=False)
    encode_data_dir(
        world.bundle, world.root / "data" / "test", tmp_path / "d.parquet", part_frames=60, progress=False
    )
    for name in "bcd":
        assert (tmp_path / f"{name}.parquet").read_bytes() == (tmp_path / "a.parquet").read_bytes(), name
    store = read_units(tmp_path / "c.parquet")
    assert store.ids == list(SECONDS)
    assert store["bob-1"].text == "say bob-1"


def test_long_recordings_segments_and_short_ones(world, tmp_path, monkeypatch):
    wav = voice(2.0, 1, 22_050)
    soundfile.write(tmp_path / "long.wav", wav, 22_050)
    soundfile.write(tmp_path / "short.wav", wav[4_000:4_500], 22_050)
    path = str(tmp_path / "long.wav")
    DataDir(
        [
            Utterance("ann-long", "ann", path, duration=2.0),
            Utterance("ann-short", "ann", str(tmp_path / "short.wav"), duration=500 / 22_050),
        ]
    ).write(tmp_path / "whole")
    parts = [Utterance(f"a-{n}", "a", path, start=n * 0.5, end=n * 0.5 + 0.5, recording="r") for n in range(4)]
    DataDir(parts).write(tmp_path / "segments")
    encode_data_dir(world.bundle, tmp_path / "whole", tmp_path / "a.parquet", progress=False)
    monkeypatch.setattr(extract_wavs, "LONG_SECONDS", 1.0)
    monkeypatch.setattr("sqvae_speech.models.wavs.LONG_SECONDS", 1.0)
    monkeypatch.setattr(extract_wavs, "read_utterance", lambda *args, **_: _never_long(*args))
    encode_data_dir(world.bundle, tmp_path / "whole", tmp_path / "b.parquet", progress=False)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    store = read_units(tmp_path / "a.parquet")
    assert [store[name].num_units for name in store.ids] == [99, 0]
    monkeypatch.undo()
    encode_data_dir(world.bundle, tmp_path / "segments", tmp_path / "c.parquet", progress=False)
    assert [units.num_units for units in read_units(tmp_path / "c.parquet")] == [24] * 4


def _never_long(utterance, *args):
    assert "long" not in utterance.utterance_id
    from sqvae_speech.data.recordings import read_utterance

    return read_utterance(utterance, *args)


def test_unreadable_recordings_are_listed(world, tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", voice(0.3, 1), 16_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(9_000), 16_000)
    (tmp_path / "torn.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:20])
    names = {"ann-1": "a.wav", "ann-2": "silent.wav", "ann-3": "torn.wav", "ann-4": "gone.wav"}
    DataDir([Utterance(name, "ann", str(tmp_path / file)) for name, file in names.items()]).write(tmp_path / "data")
    output = tmp_path / "u.parquet"
    with pytest.raises(UserError, match=r"3 utterances cannot be encoded .*'ann-2': .*silent"):
        encode_data_dir(world.bundle, tmp_path / "data", output, max_bad=2, progress=False)
    encode_data_dir(world.bundle, tmp_path / "data", output, max_bad=3, progress=False)
    assert read_units(output).ids == ["ann-1"]
    assert "ann-4: left out: " in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part_frames": 0}, "--part-frames 0; at least 1"),
        ({"max_bad": -1}, "--max-bad -1"),
        ({"formats": ["gsln"]}, "did you mean 'gslm'"),
    ],
)
def test_bad_options(world, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        encode_data_dir(world.bundle, world.root / "data" / "test", tmp_path / "x.parquet", **options)
    assert list(tmp_path.iterdir()) == []


def torchrun(processes: int, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [*command, "-m", "sqvae_speech.bin.encode", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("source", ["--shards", "--data-dir"])
def test_two_processes_write_what_one_writes(world, tmp_path, capsys, source):
    where = str(world.shards if source == "--shards" else world.root / "data" / "test")
    words = ["--model", str(world.model), source, where, "--device", "cpu", "--part-frames", "40", "--formats", "km"]
    assert main(["encode", *words, "--output", str(tmp_path / "1" / "u.parquet"), "--quiet"]) == 0
    done = torchrun(2, *words, "--output", str(tmp_path / "2" / "u.parquet"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("6 utterances") == 1
    assert "process 1 of 2" in done.stderr
    names = {"u.parquet", "u.km", "u.ids", "dict.km.txt", "u.km.json"}
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert {path.name for path in (tmp_path / "2").iterdir()} == names


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_with_one_message(world, tmp_path):
    path = str(world.root / "wavs" / "ann-1.wav")
    DataDir([Utterance("a-1", "a", path), Utterance("a-2", "a", "gone.wav")]).write(tmp_path / "data")
    words = ["--model", str(world.model), "--data-dir", str(tmp_path / "data"), "--device", "cpu", "--quiet"]
    done = torchrun(2, *words, "--output", str(tmp_path / "u.parquet"), "--part-frames", "1")
    assert done.returncode != 0
    assert done.stderr.count("error: 1 utterances cannot be encoded") == 1
    assert not (tmp_path / "u.parquet").exists()


def test_a_run_goes_on_with_the_same_model_and_precision_only(world, tmp_path, monkeypatch):
    half = replace(world.bundle, model=for_inference(world.bundle.model, torch.bfloat16))
    data, output = world.root / "data" / "test", tmp_path / "u.parquet"
    encode_data_dir(half, data, tmp_path / "half.parquet", part_frames=40, progress=False)
    reads = []

    def read(self, sources, reader):
        reads.append(len(sources))
        if len(reads) == 3:
            raise KeyboardInterrupt
        return whole(self, sources, reader)

    whole = WavReader.read
    monkeypatch.setattr(WavReader, "read", read)
    with pytest.raises(KeyboardInterrupt):
        encode_data_dir(world.bundle, data, output, part_frames=40, progress=False)
    encode_data_dir(half, data, output, part_frames=40, progress=False)
    assert output.read_bytes() == (tmp_path / "half.parquet").read_bytes()
    assert sum(reads[3:]) == len(SECONDS)
    reads.clear()
    with pytest.raises(KeyboardInterrupt):
        encode_data_dir(half, data, output, part_frames=40, progress=False)
    done = sum(reads[:2])
    reads[:] = [0] * 5
    encode_data_dir(half, data, output, part_frames=40, progress=False)
    assert sum(reads) == len(SECONDS) - done
    assert output.read_bytes() == (tmp_path / "half.parquet").read_bytes()
