"""Fetching files from a server on this machine: resuming, checksums, what servers, networks and disks do wrong."""

import errno
import http.server
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from download_server import BYTES, SHA256, Server, serving, stay_here

from sqvae_speech.data import download
from sqvae_speech.data.download import Archive, fetch
from sqvae_speech.errors import UserError


@pytest.fixture
def server(monkeypatch):
    stay_here(monkeypatch)
    monkeypatch.setattr(download, "CHUNK", 4096)
    with serving() as server:
        yield server


def get(server: Server, folder: Path, name: str = "x.bin", **options) -> Path:
    options = {"sha256": SHA256, "size": len(BYTES)} | options
    return fetch(Archive(f"{server.url}/{name}", **options), folder, progress=False, wait=0.0)


def test_whole_at_once(server, tmp_path):
    assert get(server, tmp_path / "new").read_bytes() == BYTES
    assert os.listdir(tmp_path / "new") == ["x.bin"]
    assert get(server, tmp_path / "new").read_bytes() == BYTES
    assert server.asked == [None], "what is there is not fetched again"


@pytest.mark.parametrize("known", [True, False])
def test_goes_on_where_a_connection_ended(server, tmp_path, known):
    server.cut = [30_000, 0, 20_001]
    options = {} if known else {"sha256": None, "size": None}
    assert get(server, tmp_path, **options).read_bytes() == BYTES
    assert server.asked == [None, "bytes=30000-", "bytes=30000-", "bytes=50001-"]
    assert os.listdir(tmp_path) == ["x.bin"]


def test_goes_on_in_another_run(server, tmp_path):
    server.cut = [30_000, *[0] * download.ATTEMPTS]
    with pytest.raises(
        UserError, match=r"5 attempts in a row brought nothing.*30000 of 100000 bytes.* kept in .*x.bin"
    ):
        get(server, tmp_path)
    assert (tmp_path / "x.bin.part").read_bytes() == BYTES[:30_000]
    server.asked.clear()
    assert get(server, tmp_path).read_bytes() == BYTES
    assert server.asked == ["bytes=30000-"]
    assert os.listdir(tmp_path) == ["x.bin"]


def test_killed_when_all_had_come(server, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(BYTES)
    assert get(server, tmp_path).read_bytes() == BYTES
    assert server.asked == []
    (tmp_path / "x.bin").rename(tmp_path / "x.bin.part")
    assert get(server, tmp_path, size=None).read_bytes() == BYTES
    assert server.asked == ["bytes=100000-"], "the server says that this is all"


def test_killed_in_the_middle(server, tmp_path):
    server.delay = 0.01  # a second for all
    program = f"""
from sqvae_speech.data import download
download.CHUNK = 1000
archive = download.Archive("{server.url}/x.bin", sha256="{SHA256}", size={len(BYTES)})
download.fetch(archive, {str(tmp_path)!r}, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    part = tmp_path / "x.bin.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 8000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    have = part.stat().st_size
    assert 8000 < have < len(BYTES)
    server.delay = 0.0
    assert get(server, tmp_path).read_bytes() == BYTES
    assert server.asked == [None, f"bytes={have}-"]


def test_the_progress_bar_shows_bytes(server, tmp_path, capsys):
    server.cut = [30_000]
    fetch(Archive(f"{server.url}/x.bin", SHA256, len(BYTES)), tmp_path, wait=0.0)
    err = capsys.readouterr().err
    assert "fetching x.bin: 100%" in err
    assert "100k/100k" in err
    assert "checking x.bin: 100%" in err


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_that_cannot_send_parts(server, tmp_path, chunked):
    server.ranges, server.chunked, server.etag = False, chunked, ""
    server.cut = [30_000]
    assert get(server, tmp_path, size=None).read_bytes() == BYTES
    assert server.asked == [None, "bytes=28672-" if chunked else "bytes=30000-"], "it was asked for the rest"


def test_a_file_that_has_changed_since_is_fetched_from_its_beginning(server, tmp_path):
    server.cut = [30_000, *[0] * download.ATTEMPTS]
    with pytest.raises(UserError):
        get(server, tmp_path)
    server.files["x.bin"], server.etag = BYTES[::-1], '"two"'
    assert get(server, tmp_path, sha256=None).read_bytes() == BYTES[::-1], "not a mixture of the two"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_something_else_is_thrown_away(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "x.bin.part").write_bytes(BYTES * 2)
    assert get(server, tmp_path).read_bytes() == BYTES


def test_busy_servers_are_asked_again(server, tmp_path):
    server.status = [503, 429]
    assert get(server, tmp_path).read_bytes() == BYTES
    server.status = [500] * download.ATTEMPTS
    with pytest.raises(UserError, match=r"5 attempts in a row brought nothing, the last one: HTTP status 500"):
        get(server, tmp_path / "again")


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "no such file"), (403, "refuses it"), (401, "asks for a login"), (410, "any more")]
)
def test_a_server_that_has_it_not(server, tmp_path, status, reason):
    server.status = [status]
    with pytest.raises(
        UserError, match=rf"{reason}.*HTTP status {status}.* by hand: http.*, saved as {tmp_path}/x.bin"
    ):
        get(server, tmp_path)
    assert len(server.asked) == 1
    assert os.listdir(tmp_path) == []


def test_another_checksum(server, tmp_path):
    with pytest.raises(UserError, match=rf"another checksum .*SHA-256 {SHA256}, not {'0' * 64}.* It was removed"):
        get(server, tmp_path, sha256="0" * 64)
    assert os.listdir(tmp_path) == []
    (tmp_path / "x.bin").write_bytes(BYTES)  # put there by hand
    with pytest.raises(
        UserError, match=r"x.bin, which is there already, has another checksum .*left as it is; remove"
    ):
        get(server, tmp_path, sha256="0" * 64)
    assert (tmp_path / "x.bin").read_bytes() == BYTES


def test_another_size(server, tmp_path):
    with pytest.raises(UserError, match=r"has 100000 bytes, the published file 99999: it is another file"):
        get(server, tmp_path, size=99_999)
    assert not (tmp_path / "x.bin").exists()


def test_no_network(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        port = closed.server_address[1]
    (tmp_path / "x.bin.part").write_bytes(BYTES[:10])
    archive = Archive(f"http://127.0.0.1:{port}/x.bin", size=100_000)
    with pytest.raises(UserError) as error:
        fetch(archive, tmp_path, page="https://example.org/about", progress=False)
    for part in ("cannot be reached", "10 bytes are kept", "Is there a network", archive.url, "example.org/about"):
        assert part in str(error.value)
    assert f"saved as {tmp_path / 'x.bin'}" in str(error.value)
    with pytest.raises(UserError, match="is not an address that begins with"):
        fetch(Archive("file:///etc/passwd"), tmp_path)


def test_a_full_disk(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"0.0 GB free, x.bin needs 0.0 GB more .*make room or choose another folder"):
        get(server, tmp_path)
    monkeypatch.undo()
    open_path = Path.open

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > 50_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def full(path, mode="r", *rest, **options):
        return Full(path, "r+") if mode == "r+b" else open_path(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(download, "CHUNK", 4096)
    with pytest.raises(UserError, match=r"x.bin.part: No space left on device. 49152 bytes are kept in .*Make room"):
        get(server, tmp_path)
    monkeypatch.undo()
    assert get(server, tmp_path).read_bytes() == BYTES
    assert server.asked[-1] == "bytes=49152-"


def test_two_at_once(server, tmp_path):
    with (
        download._alone(tmp_path / "x.bin.part"),
        pytest.raises(UserError, match=r"another process is writing .*x.bin.part"),
    ):
        get(server, tmp_path)
