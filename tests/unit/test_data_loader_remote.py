"""Shards behind http and pipes: the same batches, fetched once, checked, within a limit. Loopback only."""

import collections
import fcntl
import functools
import http.server
import itertools
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from loader_fixtures import assert_same, crops, take, utterances, write_synthetic_shards

from sqvae_speech.data import remote
from sqvae_speech.data.cache import PackedSource
from sqvae_speech.data.index import ShardIndex
from sqvae_speech.data.reader import ShardSource, batch_utterances
from sqvae_speech.data.remote import file_address, open_index
from sqvae_speech.errors import UserError

NUM_SHARDS = 8


def opened(address, **options) -> ShardIndex:
    return open_index(address, ShardIndex, **options)


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder and counts what is asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: collections.Counter = collections.Counter()
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked[self.path.lstrip("/")] += 1
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_synthetic_shards(tmp_path / "far", [[20, 30, 25, 40]] * NUM_SHARDS)
    with Server(tmp_path / "far") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def shard_bytes(server) -> int:
    (size,) = {path.stat().st_size for path in server.folder.glob("*.tar")}
    return size


def shards_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/*.tar")}


def pipe(server) -> str:
    return f"pipe:cat '{server.folder}'/{{name}}"


def test_batches_over_http_are_those_of_the_folder(server, tmp_path):
    remote_loader = crops(server.address)
    assert isinstance(remote_loader._source, PackedSource)  # all of it was fetched, so it is as good as local
    assert_same(take(crops(server.folder), 20), take(remote_loader, 20))
    copies = tmp_path / "xdg" / "sqvae_speech" / "shards"
    assert shards_in(copies) == {path.name for path in server.folder.glob("*.tar")}
    for path in copies.glob("*/*.tar"):
        assert path.read_bytes() == (server.folder / path.name).read_bytes()


def test_each_file_is_fetched_once(server, tmp_path):
    loaders = []
    threads = [threading.Thread(target=lambda: loaders.append(crops(server.address))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaders) == 4
    crops(server.address, shuffle_shards=2)
    assert {server.asked[name] for name in shards_in(tmp_path / "xdg" / "sqvae_speech" / "shards")} == {1}


@pytest.mark.parametrize("make", [crops, utterances])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_windows_through_a_pipe_within_the_limit(server, shard_bytes, tmp_path, make, num_workers):
    options = {"shuffle_shards": 2, "num_workers": num_workers}
    folder = tmp_path / "copies"
    limit = 5 * shard_bytes  # two windows of two, and one to spare
    index = opened(pipe(server), download_dir=folder, download_bytes=limit)
    got, expected = make(index, **options), make(server.folder, **options)
    for ours, theirs in itertools.islice(zip(got, expected, strict=True), 40):
        assert_same([ours], [theirs])
        held = {index.shards[shard].name for shard in got._shards_of(got._windows(got._cursor)[0])}
        leased = {Path(name).name for name in index.copies.downloads._leased}
        if got._held is not None and got._windows(got._cursor)[0] == got._held[0]:
            assert held <= leased
        assert sum(path.stat().st_size for path in folder.glob("*/*.tar")) <= limit
    assert got.epoch > 2


def test_a_step_across_the_small_last_window_of_an_epoch(tmp_path):
    near = write_synthetic_shards(tmp_path / "far", [[20, 30, 25, 40]] * 7)
    limit = 5 * near.shards[0].bytes  # two windows of two, and the last, which is one
    address = f"pipe:cat {tmp_path}/far/{{name}}"
    index = opened(address, download_dir=tmp_path / "copies", download_bytes=limit)
    options = {"batch_size": 6, "shuffle_shards": 2, "num_workers": 1}
    assert_same(take(crops(near, **options), 30), take(crops(index, **options), 30))
    with pytest.raises(UserError, match="2 windows of shards"):
        crops(opened(address, download_dir=tmp_path / "copies", download_bytes=limit - 1), **options)


def test_processes_of_a_run_share_the_limit(server, shard_bytes, tmp_path, caplog):
    options = {"download_dir": tmp_path / "copies", "download_bytes": 6 * shard_bytes}
    loaders = [
        iter(crops(opened(pipe(server), **options), rank=rank, world_size=2, shuffle_shards=2, num_workers=1))
        for rank in range(2)
    ]
    whole = iter(crops(server.folder, shuffle_shards=2))
    for _ in range(40):
        names = [name for loader in loaders for name in next(loader)["utterance_id"]]
        assert names == next(whole)["utterance_id"]
        assert sum(path.stat().st_size for path in (tmp_path / "copies").glob("*/*.tar")) <= 6 * shard_bytes
    assert "the limit is" not in caplog.text


def test_the_next_window_is_fetched_in_the_background(server, tmp_path):
    index = opened(server.address, download_dir=tmp_path / "copies")
    loader = crops(index, shuffle_shards=2)
    next(iter(loader))
    plan = loader._plan(0)
    soon = {index.shards[shard].name for window in plan.window_shards[:2] for shard in window}
    deadline = time.monotonic() + 20
    while shards_in(tmp_path / "copies") != soon and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shards_in(tmp_path / "copies") == soon


def test_the_least_recently_used_are_deleted_and_none_in_use(server, shard_bytes, tmp_path, caplog):
    folder = tmp_path / "copies"
    index = opened(server.address, download_dir=folder, download_bytes=4 * shard_bytes)
    names = [shard.name for shard in index.shards]
    for number in (0, 1, 2, 3):
        index.copies.hold([number])
        index.shard_path(number)
        past = time.time() - 100 + number
        os.utime(index.folder / names[number], (past, past))
    index.copies.hold([0])  # used again: now 1 is the oldest
    index.copies.hold([0, 4])
    index.shard_path(4)
    assert shards_in(folder) == {names[number] for number in (0, 2, 3, 4)}
    other = opened(server.address, download_dir=folder, download_bytes=4 * shard_bytes)
    other.copies.hold([3])
    index.copies.hold([5, 6, 7])
    for number in (5, 6, 7):
        index.shard_path(number)
    assert shards_in(folder) == {names[number] for number in (3, 5, 6, 7)}  # 3 is the other's
    other.copies.hold([3], following=[1, 2])  # of which 1 and 2 find no room
    assert {Path(name).name for name in other.copies.downloads._leased} == {names[3]}
    index.copies.hold([0, 1, 2, 4])
    index.shard_path(4)
    assert caplog.text.count("the shards that processes have in use take") == 1
    assert names[3] in shards_in(folder)


def test_what_others_fetch_ahead_makes_room(server, shard_bytes, tmp_path):
    folder = tmp_path / "copies"
    index, other = (opened(server.address, download_dir=folder, download_bytes=4 * shard_bytes) for _ in range(2))
    names = [shard.name for shard in index.shards]
    other.copies.hold([0], following=[1, 2, 3])
    for number in range(4):
        other.shard_path(number)
    index.copies.hold([4, 5])
    for number in (4, 5):
        index.shard_path(number)
    assert {names[0], names[4], names[5]} <= shards_in(folder)
    assert len(shards_in(folder)) <= 4


def test_the_lease_of_a_process_that_is_gone_is_void(server, shard_bytes, tmp_path, caplog):
    folder = tmp_path / "copies"
    index = opened(server.address, download_dir=folder, download_bytes=2 * shard_bytes)
    (own,) = (folder / "leases").iterdir()
    stale = folder / "leases" / "elsewhere-1-0.json"
    index.shard_path(0)
    name = f"{index.folder.name}/{index.shards[0].name}"
    stale.write_text(json.dumps({"held": {name: shard_bytes}, "ahead": {}}))
    with stale.open("r") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)  # a living one
        index.copies.hold([1, 2])
        assert (folder / name).exists()
        assert "the limit is" in caplog.text
    # a program that a fetching thread is just starting has a copy of every open file for a moment, and so of the lock
    for _ in range(100):
        index.copies.hold([1, 2])
        if not (folder / name).exists():
            break
        time.sleep(0.05)
    assert not (folder / name).exists()
    assert list((folder / "leases").iterdir()) == [own]


def test_windows_that_do_not_fit_are_refused_at_the_start(server, shard_bytes, tmp_path):
    index = opened(server.address, download_dir=tmp_path, download_bytes=4 * shard_bytes - 1)
    with pytest.raises(UserError, match=r"2 windows of shards .* \(data.shuffle_shards, now 2\)"):
        crops(index, shuffle_shards=2)
    with pytest.raises(UserError, match="3 windows of shards"):  # processes are not always in the same one
        crops(index, shuffle_shards=2, world_size=2)
    with pytest.raises(UserError, match=r"raise data.download_gb, or shuffle within windows of fewer"):
        crops(index)


def test_the_packed_cache_stays_within_the_limit_too(server, shard_bytes, tmp_path):
    index = opened(server.address, download_dir=tmp_path / "copies", download_bytes=NUM_SHARDS * shard_bytes + 1)
    assert isinstance(crops(index)._source, ShardSource)
    index = opened(server.address, download_dir=tmp_path / "copies", download_bytes=2 * NUM_SHARDS * shard_bytes)
    assert isinstance(crops(index)._source, PackedSource)


def test_changed_shards_are_fetched_anew(server):
    take(crops(server.address), 2)
    changed = write_synthetic_shards(server.folder, [[20, 30, 25, 40]] * NUM_SHARDS, seed=1)
    assert_same(take(crops(changed), 9), take(crops(server.address), 9))


def test_an_unchecked_shard_is_never_used(server, tmp_path):
    path = sorted(server.folder.glob("*.tar"))[2]
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name}: its SHA-256 is [0-9a-f]+, index.json says"):
        crops(server.address)
    assert server.asked[path.name] in (2, 3, 4)  # once more, then no more; ahead of need, and when it is needed
    copies = tmp_path / "xdg" / "sqvae_speech" / "shards"
    assert path.name not in shards_in(copies)


@pytest.mark.parametrize(("keep", "message"), [(-1000, "bytes, index.json says"), (1000, "more than")])
def test_a_shard_of_another_size_is_refused(server, keep, message):
    path = sorted(server.folder.glob("*.tar"))[0]
    content = path.read_bytes()
    path.write_bytes(content[:keep] if keep < 0 else content + bytes(3 << 20))
    with pytest.raises(UserError, match=f"{message}"):
        crops(pipe(server))


def test_what_a_killed_process_left_is_overwritten(server):
    index = opened(server.address)
    index.folder.mkdir(exist_ok=True)
    left = index.folder / f".{index.shards[0].name}.part"
    left.write_bytes(b"half" * 100_000)
    assert_same(take(crops(server.folder), 9), take(crops(index), 9))
    assert not left.exists()


def test_whole_utterances_of_a_remote_folder(server):
    index = opened(server.address)
    for ours, theirs in zip(batch_utterances(index, 100), batch_utterances(server.folder, 100), strict=True):
        assert_same([ours], [theirs])
    index.validate(checksums=True)


# ---- what a user can get wrong


def test_what_cannot_be_reached_is_said(server):
    with pytest.raises(UserError, match=r"nowhere/index.json cannot be read \(the command failed, exit 22\)"):
        crops(f"{server.address}/nowhere")
    with pytest.raises(UserError, match=r"cannot be read \(the command failed, exit 1\)"):
        crops("pipe:cat /nowhere/{name} 2>/dev/null")


def test_a_shard_that_is_gone_is_said(server):
    path = sorted(server.folder.glob("*.tar"))[1]
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name} cannot be read"):
        crops(server.address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://bucket/train", r's3://bucket/train cannot be read; legal are .* "pipe:aws s3 cp'),
        ("pipe:cat /data/train", r"has no \{name\}"),
        ("pipe:echo '[]' # {name}", "holds no JSON object"),
    ],
)
def test_addresses_that_cannot_be(server, address, message):
    with pytest.raises(UserError, match=message):
        crops(address)


def test_without_curl_it_says_so(server, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="curl, which is not installed; install curl"):
        crops(server.address)
    assert_same(take(crops(pipe(server)), 3), take(crops(server.folder), 3))


def test_a_download_folder_that_cannot_be_is_said(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to .*\(data.download_dir\)"):
        opened(server.address, download_dir=tmp_path / "file" / "sub")


@pytest.mark.parametrize("name", ["../up.tar", ".hidden.tar", "a\nb.tar", "a\\b.tar"])
def test_names_that_lead_out_of_the_folder_are_refused(server, name):
    index = json.loads((server.folder / "index.json").read_text())
    index["shards"][0]["name"] = name
    (server.folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="no file name"):
        crops(server.address)


def test_names_are_quoted():
    name = "a b';x$(y)?#-000000.tar"
    quoted = "a%20b%27%3Bx%24%28y%29%3F%23-000000.tar"
    assert file_address("https://host/dump/", name) == f"https://host/dump/{quoted}"
    assert file_address("https://host/{name}?key=1", name) == f"https://host/{quoted}?key=1"
    assert file_address("pipe:cat {name}", name) == "pipe:cat 'a b'\"'\"';x$(y)?#-000000.tar'"


def test_paths_are_no_addresses():
    assert not remote.is_remote("dump/train")
    assert not remote.is_remote(Path("http:/x"))
    assert remote.is_remote("pipe:cat {name}")
