"""The packed cache: the same batches, made once, remade when shards change, done without when it cannot be."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from loader_fixtures import assert_same, crops, mels_of, random_lengths, take, utterances, write_synthetic_shards

from sqvae_speech.data import cache, packed
from sqvae_speech.data.cache import PackedSource, open_packed
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import ShardReader, ShardSource, Utterances
from sqvae_speech.errors import UserError


@pytest.fixture(params=["float32", "float16"])
def index(request, tmp_path) -> ShardIndex:
    return write_synthetic_shards(tmp_path / "shards", random_lengths(1, 4), dtype=request.param)


def frames_file(index: ShardIndex) -> Path:
    (path,) = (index.folder / ".cache").glob("*.frames")
    return path


def test_the_file_holds_all_frames_of_all_utterances_in_order(index):
    crops(index)
    stored = np.fromfile(frames_file(index), dtype=index.dtype).reshape(-1, 80)
    expected = np.concatenate([mel.T for mel in mels_of(index).values()])
    assert stored.shape == (index.num_frames, 80)
    assert np.array_equal(stored.astype(np.float32), expected)
    description = json.loads(Path(f"{frames_file(index)}.json").read_text())
    assert description["fingerprint"] == index.fingerprint


@pytest.mark.parametrize("width", [1, 16, 60, 75])  # one frame, a usual crop, the longest utterance, beyond it
@pytest.mark.parametrize("last", [False, True])  # with the last one, behind which the file ends, or without
def test_it_cuts_what_the_shards_hold(index, width, last, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK_FRAMES", 64)  # several blocks, the last one not full
    mels = list(mels_of(index).values())
    rng = np.random.default_rng(width)
    numbers = rng.integers(0, len(mels) - 6, 37)
    if last:
        numbers[-1] = len(mels) - 1
    num_frames = np.array([mels[number].shape[1] for number in numbers])
    lengths = np.minimum(num_frames, rng.integers(1, width + 1, len(numbers)))
    first = rng.integers(0, num_frames - lengths + 1)
    expected = np.zeros((len(numbers), 80, width), dtype=np.float32)
    for row, number, start, length in zip(expected, numbers, first, lengths, strict=True):
        row[:, :length] = mels[number][:, start : start + length]
    known = Utterances.of(index)
    packed, direct = open_packed(index, known, 1 << 30), ShardSource(ShardReader(index), known)
    assert isinstance(packed, PackedSource)
    for source in (packed, direct):
        got = source.gather(numbers, first, lengths, width)
        assert got.dtype == torch.float32
        assert got.is_contiguous()
        assert np.array_equal(got.numpy(), expected)


@pytest.mark.parametrize("make", [crops, utterances])
def test_batches_are_the_same_with_and_without(index, make):
    without = make(index, cache_bytes=0)
    assert isinstance(without._source, ShardSource)
    assert not (index.folder / ".cache").exists()
    packed = make(index)
    assert isinstance(packed._source, PackedSource)
    assert_same(take(without, 30), take(packed, 30))


def test_it_is_made_once_by_one_of_many(index, monkeypatch):
    writes, write = [], packed.PackedFile._write
    monkeypatch.setattr(packed.PackedFile, "_write", lambda file: (writes.append(1), write(file)))
    sources: list = []
    known = Utterances.of(index)
    threads = [threading.Thread(target=lambda: sources.append(open_packed(index, known, 1 << 30))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(source) for source in sources] == [PackedSource] * 6
    assert len(writes) == 1
    before = frames_file(index).stat().st_ino
    crops(index)
    assert frames_file(index).stat().st_ino == before


def test_others_wait_for_the_process_that_makes_it(index, caplog):
    folder = index.folder / ".cache"
    folder.mkdir()
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        made: list = []
        thread = threading.Thread(target=lambda: made.append(crops(index)))
        with caplog.at_level(logging.INFO, logger="sqvae_speech"):
            thread.start()
            thread.join(timeout=0.5)
        assert not made
        assert "waiting for the process" in caplog.text
        other.kill()  # however it ends, its lock ends with it
        thread.join(timeout=30)
    assert isinstance(made[0]._source, PackedSource)


def test_it_is_remade_when_the_shards_change(index):
    crops(index)
    old = frames_file(index)
    left_over = old.parent / f".{old.name}.elsewhere.7.part"
    left_over.write_bytes(b"half")
    other = write_synthetic_shards(index.folder, random_lengths(2, 4), dtype=index.dtype, seed=9)
    assert_same(take(crops(other, cache_bytes=0), 12), take(crops(other), 12))
    assert frames_file(other) != old  # and the only one
    assert not left_over.exists()
    assert sorted(path.suffix for path in old.parent.iterdir()) == ["", ".frames", ".json"]


@pytest.mark.parametrize("damage", ["truncated", "description"])
def test_a_damaged_file_is_remade(index, damage):
    crops(index)
    path = frames_file(index)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-80])
    else:
        Path(f"{path}.json").write_text("{")
    assert_same(take(crops(index, cache_bytes=0), 12), take(crops(index), 12))
    assert path.stat().st_size == index.num_frames * 80 * np.dtype(index.dtype).itemsize


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("obstacle", ["limit", "space", "full", "folder"])
def test_without_room_the_shards_are_read_and_it_is_said_once(index, obstacle, monkeypatch, caplog):
    options = {}
    if obstacle == "limit":
        options["cache_bytes"] = index.num_frames * 80 * np.dtype(index.dtype).itemsize - 1
    elif obstacle == "space":
        monkeypatch.setattr(packed, "SPARE_BYTES", 1 << 60)
    elif obstacle == "full":
        monkeypatch.setattr(packed.os, "fsync", full_disk)
    else:
        (index.folder / ".cache").write_text("a file, where the folder should go")
    with caplog.at_level(logging.INFO, logger="sqvae_speech"):
        loader = crops(index, **options)
    assert isinstance(loader._source, ShardSource)
    assert [record.getMessage() for record in caplog.records if "no packed cache" in record.getMessage()]
    assert caplog.text.count("no packed cache") == 1
    assert not list(index.folder.glob(".cache/*.frames"))
    assert not list(index.folder.glob(".cache/.*.part"))
    monkeypatch.undo()
    assert_same(take(loader, 12), take(crops(index, cache_bytes=0), 12))


def test_an_existing_cache_serves_where_nothing_can_be_written(index, monkeypatch):
    crops(index)
    monkeypatch.setattr(packed.PackedFile, "_make", full_disk)
    assert isinstance(crops(index)._source, PackedSource)


def test_a_file_system_without_locks_will_do(index, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(packed.fcntl, "flock", no_locks)
    assert isinstance(crops(index)._source, PackedSource)


def test_a_damaged_shard_is_named(index):
    entry = index.entries()[-1]
    path = index.shard_path(entry.shard)
    content = bytearray(path.read_bytes())
    content[entry.mel[0]] ^= 1  # the magic of its npy
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name} does not hold the mel of '{entry.utterance_id}'"):
        crops(index)
    assert not list(index.folder.glob(".cache/*.frames"))


@pytest.mark.parametrize("cache_bytes", [0, None])
def test_memory_is_flat_over_epochs(tmp_path, cache_bytes):
    index = write_synthetic_shards(tmp_path, [[60] * 40] * 10)  # 7.7 MB
    loader = crops(index, batch_size=40, num_workers=2, cache_bytes=cache_bytes)
    iterator = iter(loader)
    process = psutil.Process()
    after = {}
    for step in range(1, 401):
        next(iterator)
        if step in (100, 400):  # 10 and 40 epochs
            after[step] = process.memory_info().rss
    # 30 epochs kept would be 230 MB; the allocator alone comes and goes by 5
    assert after[400] - after[100] < 20e6
