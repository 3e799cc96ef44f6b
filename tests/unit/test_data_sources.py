"""``--download``: tiny corpora in the layout of the published archives, from a server on this machine."""

import hashlib
import os
from pathlib import Path

import pytest
from data_fixtures import voice, write
from download_server import serving, stay_here, tar_bytes, zip_bytes

from sqvae_speech.bin.main import main
from sqvae_speech.data.corpora import CORPORA
from sqvae_speech.data.corpora.sources import SOURCES
from sqvae_speech.data.corpus_sources import Source, download_corpus
from sqvae_speech.data.download import Archive
from sqvae_speech.errors import UserError


@pytest.fixture
def server(monkeypatch):
    stay_here(monkeypatch)
    with serving() as server:
        yield server


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
    download_corpus("vctk", tmp_path / "d", sources=SOURCES, progress=False)
    assert server.asked == []
    assert (tmp_path / "d" / "VCTK-Corpus-0.92" / "speaker-info.txt").is_file()


def test_unpacking_that_was_interrupted_is_done_again(server, corpora, tmp_path):
    corpora("vctk", vctk_files(corpora.wav(tmp_path)))
    download_corpus("vctk", tmp_path / "d", sources=SOURCES, progress=False)
    root = tmp_path / "d" / "VCTK-Corpus-0.92"
    # killed while things were moved to their place: txt/ was, the rest was not
    (tmp_path / "d" / ".VCTK-Corpus-0.92.zip.done").unlink()
    (root / ".VCTK-Corpus-0.92.zip.unpacking").mkdir()
    (root / "speaker-info.txt").unlink()
    download_corpus("vctk", tmp_path / "d", sources=SOURCES, progress=False)
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
        download_corpus("vctk", tmp_path / "file", sources=SOURCES, progress=False)


def test_corpus_or_download_is_needed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "vctk"])
    assert ended.value.code == 2
    assert "the following arguments are required: --corpus, --output (or --download)" in capsys.readouterr().err


def test_sources_are_of_known_corpora():
    assert set(SOURCES) < set(CORPORA)
