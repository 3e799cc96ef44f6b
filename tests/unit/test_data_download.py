"""Fetching archives from a server on this machine: resuming, checksums, bad servers, bad archives."""

import errno
import gzip
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from sqvae_speech.bin.main import main
from sqvae_speech.data import download, unpack
from sqvae_speech.data.corpora import sources
from sqvae_speech.data.corpora.sources import SOURCES, Source, download_corpus
from sqvae_speech.data.download import Archive, fetch
from sqvae_speech.errors import UserError

BYTES = bytes(hashlib.sha256(str(n).encode()).digest()[0] for n in range(100_000))
SHA256 = hashlib.sha256(BYTES).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; what it does wrong is set by the tests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"x.bin": BYTES}
        self.ranges = True  # whether it can send parts
        self.etag = '"one"'
        self.cut: list[int] = []  # bytes after which the connections to come are closed
        self.status: list[int] = []  # answers to the requests to come
        self.chunked = False  # does not say how long it is
        self.delay = 0.0  # s before every 1000 bytes
        self.asked: list[str | None] = []  # the Range of every request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        data = server.files.get(self.path.lstrip("/"))
        if server.status:
            return self.send_error(server.status.pop(0))
        if data is None:
            return self.send_error(404)
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        body = data[start:]
        sent = body[: server.cut.pop(0)] if server.cut else body
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
            if len(sent) == len(body):
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for at in range(0, len(sent), 1000):
                time.sleep(server.delay)
                self.wfile.write(sent[at : at + 1000])
        self.close_connection = True
        return None


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch):
    """No proxy, and no way to any other machine."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "CHUNK", 4096)


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


def tar_bytes(files: dict[str, bytes], mode: str = "w:gz", **attributes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zip_bytes(files: dict[str, bytes], mode: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content)
    return out.getvalue()


FILES = {"corpus/a.txt": b"one", "corpus/deep/b.wav": BYTES, "top.txt": b"two"}


@pytest.mark.parametrize("form", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_unpacking(tmp_path, form):
    path = tmp_path / "in" / "x.archive"
    path.parent.mkdir()
    path.write_bytes(zip_bytes(FILES) if form == "zip" else tar_bytes(FILES, form))
    for name, content in {"corpus/a.txt": b"older", "corpus/other.txt": b"other"}.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    unpack.unpack(path, tmp_path / "out", progress=False)
    found = {
        p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in tmp_path.glob("out/**/*") if p.is_file()
    }
    assert found == FILES | {"corpus/other.txt": b"other"}
    assert sorted(os.listdir(tmp_path / "out")) == ["corpus", "top.txt"]


EVIL = {
    "zip, upwards": (zip_bytes({"a.txt": b"a", "../evil": b"evil"}), r"'../evil' leads out of the folder"),
    "zip, absolute": (zip_bytes({"/evil": b"evil"}), r"'/evil' leads out of the folder"),
    "zip, Windows": (zip_bytes({"..\\evil": b"evil"}), r"leads out of the folder"),
    "zip, drive": (zip_bytes({"C:/evil": b"evil"}), r"leads out of the folder"),
    "zip, link": (zip_bytes({"link": b"/etc"}, mode=0o120777), r"'link' is a link or a device"),
    "tar, upwards": (tar_bytes({"a.txt": b"a", "../evil": b"evil"}), r"'../evil' leads out of the folder"),
    "tar, absolute": (tar_bytes({"/tmp/evil": b"evil"}), r"'/tmp/evil' leads out of the folder"),
    "tar, link": (tar_bytes({"link": b""}, type=tarfile.SYMTYPE, linkname="/etc"), r"'link' is a link or a device"),
    "tar, device": (tar_bytes({"null": b""}, type=tarfile.CHRTYPE), r"'null' is a link or a device"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_archives_that_lead_out_of_the_folder(tmp_path, kind):
    content, message = EVIL[kind]
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=message + r".*nothing was unpacked"):
        unpack.unpack(tmp_path / "x.zip", tmp_path / "a" / "b", progress=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "x.zip"]


def damaged(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :]


@pytest.mark.parametrize(
    "content",
    [
        tar_bytes(FILES)[:-2000],
        damaged(tar_bytes(FILES)),
        damaged(tar_bytes(FILES, "w:bz2")),
        tar_bytes(FILES, "w:xz")[:-100],
        # only the checksum at the end is wrong
        gzip.compress(tar_bytes(FILES, "w"))[:-8] + bytes(8),
        damaged(zip_bytes(FILES)),
        b"<html>please log in</html>" * 100,
        b"",
    ],
    ids=["cut gz", "bad gz", "bad bz2", "cut xz", "gz checksum", "bad zip", "web page", "empty"],
)
def test_damaged_archives(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=r"x is damaged \(.*\); remove it and fetch it again"):
        unpack.unpack(tmp_path / "x", tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_a_disk_that_is_full_while_unpacking(tmp_path, monkeypatch, form):
    (tmp_path / "x").write_bytes(zip_bytes(FILES) if form == "zip" else tar_bytes(FILES))
    extract = {"tar": tarfile.TarFile, "zip": zipfile.ZipFile}[form]

    def full(self, member, *rest, **options):
        if "b.wav" in getattr(member, "name", getattr(member, "filename", "")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, member, *rest, **options)

    original = extract.extract
    monkeypatch.setattr(extract, "extract", full)
    with pytest.raises(UserError, match=r"x cannot be unpacked into .*: No space left on device; make room"):
        unpack.unpack(tmp_path / "x", tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_addresses_are_well_formed():
    """Of checksums that are copied from elsewhere, the form at least can be tested."""
    for name, source in SOURCES.items():
        assert source.licence, name
        assert source.page.startswith("https://"), name
        for part, archive in source.archives.items():
            assert archive.url.startswith("https://"), name
            assert part in source.there, name
            assert archive.sha256 is None or len(bytes.fromhex(archive.sha256)) == 32, name
            assert archive.name.endswith((".zip", ".tar.gz", ".tar.bz2", ".tgz")), name


@pytest.fixture
def corpora(server, monkeypatch):
    """The corpora, tiny, on this machine's server, in the layout of the published archives."""
    from data_fixtures import voice, write

    def wav(folder: Path) -> bytes:
        return write(folder / "x.wav", voice(0.2)).read_bytes()

    def use(name: str, files: dict[str, bytes], part: str = "", checksum: bool = True) -> None:
        published = SOURCES[name].archives[part]
        content = zip_bytes(files) if published.name.endswith(".zip") else tar_bytes(files)
        server.files[published.name] = content
        archive = Archive(
            f"{server.url}/{published.name}",
            sha256=hashlib.sha256(content).hexdigest() if checksum else None,
            into=published.into,
        )
        changed = {**vars(SOURCES[name]), "archives": {**SOURCES[name].archives, part: archive}}
        monkeypatch.setitem(SOURCES, name, Source(**changed))

    use.wav = wav
    return use


def vctk_files(wav: bytes) -> dict[str, bytes]:
    files = {"speaker-info.txt": b"ID\n"}
    for n in range(1, 6):
        files[f"wav48_silence_trimmed/p225/p225_{n:03d}_mic1.flac"] = wav
        files[f"txt/p225/p225_{n:03d}.txt"] = f"Sentence {n}.\n".encode()
    return files


def test_prepare_with_download(server, corpora, tmp_path, monkeypatch, capsys, caplog):
    corpora("vctk", vctk_files(corpora.wav(tmp_path)))
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    words = ["prepare", "vctk", "--download", "--no-progress"]
    assert main([*words, "--output", "data"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["train", "3", "1"]
    assert "licence: CC BY 4.0" in caplog.text
    root = tmp_path / "downloads" / "vctk"
    assert (root / "VCTK-Corpus-0.92" / "txt" / "p225" / "p225_001.txt").is_file()
    assert (root / ".VCTK-Corpus-0.92.zip.done").is_file()
    assert main(words) == 0, "without --output it only fetches"
    assert capsys.readouterr().out == ""
    assert len(server.asked) == 1, "once"
    assert "there already, nothing to fetch" in caplog.text
    # the corpus itself as --corpus: it is there
    assert main([*words, "--corpus", str(root / "VCTK-Corpus-0.92"), "--output", "data"]) == 0
    assert len(server.asked) == 1


def test_an_archive_put_there_by_hand_is_used(server, corpora, tmp_path):
    corpora("vctk", vctk_files(corpora.wav(tmp_path)))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "VCTK-Corpus-0.92.zip").write_bytes(server.files["VCTK-Corpus-0.92.zip"])
    download_corpus("vctk", tmp_path / "d", progress=False)
    assert server.asked == []
    assert (tmp_path / "d" / "VCTK-Corpus-0.92" / "speaker-info.txt").is_file()


def test_unpacking_that_was_interrupted_is_done_again(server, corpora, tmp_path):
    corpora("vctk", vctk_files(corpora.wav(tmp_path)))
    download_corpus("vctk", tmp_path / "d", progress=False)
    root = tmp_path / "d" / "VCTK-Corpus-0.92"
    # killed while things were moved to their place: txt/ was, the rest was not
    (tmp_path / "d" / ".VCTK-Corpus-0.92.zip.done").unlink()
    (root / ".VCTK-Corpus-0.92.zip.unpacking").mkdir()
    (root / "speaker-info.txt").unlink()
    download_corpus("vctk", tmp_path / "d", progress=False)
    assert sorted(os.listdir(root)) == ["speaker-info.txt", "txt", "wav48_silence_trimmed"]
    assert len(server.asked) == 1


def test_librispeech_fetches_the_chosen_subsets_only(server, corpora, tmp_path, capsys):
    for subset, speaker in (("train-clean-100", "19"), ("dev-clean", "84")):
        folder = f"LibriSpeech/{subset}/{speaker}/7"
        names = [f"{speaker}-7-{n:04d}" for n in range(5)]
        files = {f"{folder}/{name}.flac": corpora.wav(tmp_path) for name in names}
        files[f"{folder}/{speaker}-7.trans.txt"] = "".join(f"{name} WORDS\n" for name in names).encode()
        files["LibriSpeech/SPEAKERS.TXT"] = b"; none\n"
        corpora("librispeech", files, subset)
    words = ["prepare", "librispeech", "--download", "--corpus", str(tmp_path / "d"), "--no-progress"]
    assert main([*words, "--output", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["all", "5", "1"]
    assert os.listdir(tmp_path / "d" / "LibriSpeech") != []
    assert not (tmp_path / "d" / "LibriSpeech" / "dev-clean").exists()
    # the corpus' own folder as --corpus, and another subset
    words[words.index(str(tmp_path / "d"))] = str(tmp_path / "d" / "LibriSpeech")
    assert main([*words, "--subsets", "train-clean-100", "dev-clean", "--output", str(tmp_path / "data")]) == 0
    assert sorted(os.listdir(tmp_path / "d" / "LibriSpeech")) == ["SPEAKERS.TXT", "dev-clean", "train-clean-100"]
    assert len(server.asked) == 2
    assert main([*words, "--subsets", "train-clean", "--output", str(tmp_path / "data")]) == 1
    assert "--download: librispeech has no part 'train-clean'; there are train-clean-100" in capsys.readouterr().err


def test_the_other_corpora(server, corpora, tmp_path):
    wav = corpora.wav(tmp_path)
    lines = "".join(f"LJ001-{n:04d}|a {n}|a {n}\n" for n in range(1, 6))
    corpora(
        "ljspeech",
        {"LJSpeech-1.1/metadata.csv": lines.encode()}
        | {f"LJSpeech-1.1/wavs/LJ001-{n:04d}.wav": wav for n in range(1, 6)},
    )
    recordings = {f"{digit}_ann_{n}.wav": wav for digit in range(10) for n in range(12)}
    corpora(
        "fsdd", {f"free-spoken-digit-dataset-1.0.10/recordings/{name}": wav for name in recordings}, checksum=False
    )
    corpora(
        "zerospeech2019",
        {
            f"english/train/{kind}/{s}_{n:010d}.wav": wav
            for kind, s in (("unit", "S015"), ("voice", "V001"))
            for n in range(4)
        },
        "english",
        checksum=False,
    )
    for name in ("ljspeech", "fsdd", "zerospeech2019"):
        words = ["prepare", name, "--download", "--corpus", str(tmp_path / name), "--no-progress"]
        assert main([*words, "--output", str(tmp_path / "data" / name)]) == 0, name
        assert (tmp_path / "data" / name / "train" / "wav.scp").is_file()
        assert main(words) == 0
    assert len(server.asked) == 3


def test_what_has_no_public_address(tmp_path, capsys):
    words = ["--download", "--corpus", str(tmp_path)]
    assert main(["prepare", "folder", *words]) == 1
    assert "folder has no public address. Corpora that can be fetched: vctk, librispeech" in capsys.readouterr().err
    assert main(["prepare", "zerospeech2019", "--language", "surprise", *words]) == 1
    err = capsys.readouterr().err
    assert "surprise cannot be fetched: its archive has a password" in err
    assert str(tmp_path) in err
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file; --corpus takes the folder to download to"):
        download_corpus("vctk", tmp_path / "file", progress=False)


def test_corpus_or_download_is_needed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "vctk"])
    assert ended.value.code == 2
    assert "the following arguments are required: --corpus, --output (or --download)" in capsys.readouterr().err


def test_sources_are_of_known_corpora():
    from sqvae_speech.data.corpora import CORPORA

    assert set(sources.SOURCES) < set(CORPORA)
