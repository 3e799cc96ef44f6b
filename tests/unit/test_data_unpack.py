"""Unpacking archives: nothing outside the folder, whole or not at all."""

import errno
import gzip
import os
import tarfile
import zipfile

import pytest
from download_server import BYTES, tar_bytes, zip_bytes

from sqvae_speech.data import unpack
from sqvae_speech.errors import UserError

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
