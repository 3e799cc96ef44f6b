"""Forms byte by byte, as their toolkits read them, and files that those toolkits would write."""

import json

import kaldiio
import numpy as np
import pytest
import soundfile

from sqvae_speech.data.kaldi import DataDir, Utterance
from sqvae_speech.errors import UserError
from sqvae_speech.units.formats import open_format, read_format, write_format
from sqvae_speech.units.forms.base import ReadOptions
from sqvae_speech.units.forms.table import FORMATS, FORMS, file_of, format_of
from sqvae_speech.units.meta import UnitStoreMeta
from sqvae_speech.units.sequences import UtteranceUnits, deduplicate
from sqvae_speech.units.store import deduplicated, store_of

META = UnitStoreMeta(codebook_size=100, frame_rate=50.0)
ROWS = [
    UtteranceUnits("p226_001", np.array([[71, 12, 12, 57]]), speaker="p226", f0=np.array([110.4, 0, 220.6, 99])),
    UtteranceUnits("p225_002", np.zeros((1, 0), dtype=np.int64), speaker="p225", f0=np.zeros(0)),
    UtteranceUnits("p225_001", np.array([[0]]), f0=np.zeros(1)),
]


@pytest.fixture
def store():
    return store_of(ROWS, META)


@pytest.fixture
def data_dir(tmp_path):
    """Recordings in folders of speakers, called otherwise than their utterances."""
    utterances = []
    for row, samples in zip(ROWS, (1600, 400, 800), strict=True):
        speaker = row.utterance_id.split("_")[0]
        path = tmp_path / "wav48" / speaker / f"{row.utterance_id}_mic1.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(samples, 0.1), 16_000)
        utterances.append(Utterance(row.utterance_id, speaker, str(path)))
    DataDir(sorted(utterances, key=lambda one: one.utterance_id)).write(tmp_path / "data")
    return tmp_path / "data"


def codes(store) -> dict[str, list]:
    return {units.utterance_id: units.codes.tolist() for units in store}


def test_names_tell_the_form():
    for name in FORMATS:
        assert format_of(file_of("x/test.parquet", name)) == name
    for file, name in {
        "exp/pseudo_labels_km1000.txt": "espnet",
        "dump/text.rm.wavlm_large_21_km1000": "espnet-rm",
        "x/feats.1.ark": "kaldi-ark",
        "a.speechlm.ark": "espnet-speechlm",
        "lines.jsonl": "jsonl",
        "lines.pgslm.jsonl": "pgslm",
    }.items():
        assert format_of(file) == name


def test_fairseq_manifest_with_units(store, data_dir, tmp_path):
    files = write_format(tmp_path / "out" / "train.km", store, data_dir=data_dir)
    assert {file.name for file in files} == {"train.km", "train.ids", "train.tsv", "dict.km.txt", "train.km.json"}
    out = tmp_path / "out"
    assert (out / "train.km").read_bytes() == b"71 12 12 57\n\n0\n"
    assert (out / "train.tsv").read_text() == (
        f"{tmp_path / 'wav48'}\np226/p226_001_mic1.wav\t1600\np225/p225_002_mic1.wav\t400\n"
        "p225/p225_001_mic1.wav\t800\n"
    )
    assert (out / "dict.km.txt").read_text().startswith("0 1\n1 1\n2 1\n")
    assert codes(read_format(out / "train.km")) == codes(store)
    (out / "train.ids").unlink()  # fairseq knows the manifest only: ids are then the files' names
    assert read_format(out / "train.km").ids == ["p226_001_mic1", "p225_002_mic1", "p225_001_mic1"]


def test_pgslm(store, data_dir, tmp_path):
    write_format(tmp_path / "a.pgslm.jsonl", store, key="cpc_km100")
    lines = [json.loads(line) for line in (tmp_path / "a.pgslm.jsonl").read_text().splitlines()]
    assert lines == [
        {"audio": "p226_001.wav", "duration": 0.08, "cpc_km100": "71 12 12 57", "speaker": "p226"},
        {"audio": "p225_002.wav", "duration": 0.0, "cpc_km100": "", "speaker": "p225"},
        {"audio": "p225_001.wav", "duration": 0.02, "cpc_km100": "0"},
    ]
    with pytest.raises(UserError, match="1: no 'hubert_km100'; give --key, perhaps one of: cpc_km100"):
        read_format(tmp_path / "a.pgslm.jsonl")
    assert codes(read_format(tmp_path / "a.pgslm.jsonl", key="cpc_km100")) == codes(store)
    write_format(tmp_path / "b.pgslm.jsonl", store, data_dir=data_dir)
    first = json.loads((tmp_path / "b.pgslm.jsonl").read_text().splitlines()[0])
    path = str(tmp_path / "wav48" / "p226" / "p226_001_mic1.wav")
    assert first == {
        "audio": path,
        "duration": 0.1,
        "hubert_km100": "71 12 12 57",
        "speaker": "p226",
        "utterance_id": "p226_001",
    }
    assert codes(read_format(tmp_path / "b.pgslm.jsonl")) == codes(store)
    with pytest.raises(UserError, match="duration is not known; give --frame-rate"):
        write_format(tmp_path / "c.pgslm.jsonl", store_of(ROWS, UnitStoreMeta(100)))
    with pytest.raises(UserError, match="not deduplicated, and these are; give --expand"):
        write_format(tmp_path / "c.pgslm.jsonl", deduplicated(store))


def test_textlesslib(tmp_path):
    store = store_of(map(deduplicate, ROWS), UnitStoreMeta(100, deduplicated=True, f0={"method": "pyin"}))
    for name, prefix in (("textlesslib", True), ("textlesslib-bare", False)):
        folder = tmp_path / name
        write_format(folder / "a.units", store, name)
        for suffix, lines in {
            "units": ["71 12 57", "", "0"],
            "durations": ["1 2 1", "", "1"],
            "f0s": ["110 221 99", "", "0"],  # of what is voiced of a run, in whole Hz
        }.items():
            names = [f"{row.utterance_id}\t" if prefix else "" for row in ROWS]
            expected = "".join(f"{one}{line}\n" for one, line in zip(names, lines, strict=True))
            assert (folder / f"a.{suffix}").read_text() == expected
        (folder / "a.units.json").unlink()  # as textlesslib itself would leave them
        back = read_format(folder / "a.units", name)
        assert back.meta == UnitStoreMeta(100, deduplicated=True, f0={"method": "unknown"})
        assert [row.durations.tolist() for row in back] == [[1, 2, 1], [], [1]]
    # what is written over them must not be read with their companions
    write_format(tmp_path / "textlesslib" / "a.units", store_of([ROWS[0]], META))
    assert not (tmp_path / "textlesslib" / "a.durations").exists()
    assert read_format(tmp_path / "textlesslib" / "a.units")["p226_001"].durations is None
    with pytest.raises(UserError, match=r"without names, the form is textlesslib-bare"):
        read_format(tmp_path / "textlesslib-bare" / "a.units", "textlesslib")


def test_companions_that_do_not_fit(tmp_path):
    (tmp_path / "a.units").write_text("one\t1 2\ntwo\t3\n")
    (tmp_path / "a.durations").write_text("one\t1 2\n")
    with pytest.raises(UserError, match=r"a\.units:2: a\.durations ends before this line"):
        read_format(tmp_path / "a.units", codebook_size=9)
    (tmp_path / "a.durations").write_text("one\t1 2\n3\t1\n")
    with pytest.raises(UserError, match=r"a\.units:2: a\.durations has '3' here"):
        read_format(tmp_path / "a.units", codebook_size=9)
    (tmp_path / "a.durations").write_text("one\t1\ntwo\t1\n")
    with pytest.raises(UserError, match=r"a\.units:1: one: durations are \(T,\)"):
        read_format(tmp_path / "a.units", codebook_size=9)


def test_espnet_text_and_characters(store, tmp_path):
    write_format(tmp_path / "text.km.sqvae", store)
    assert (tmp_path / "text.km.sqvae").read_text() == "p225_001 0\np225_002\np226_001 71 12 12 57\n"
    assert (tmp_path / "tokens.txt").read_text() == "".join(f"{n}\n" for n in range(100))
    write_format(tmp_path / "text.ts.sqvae", store)
    write_format(tmp_path / "text.rm.sqvae", deduplicated(store))
    symbols = [chr(0x4E00 + code) for code in (71, 12, 57)]
    assert (tmp_path / "text.ts.sqvae").read_text() == (
        f"p225_001 一\np225_002\np226_001 {symbols[0]}{symbols[1] * 2}{symbols[2]}\n"
    )
    assert (tmp_path / "text.rm.sqvae").read_text() == f"p225_001 一\np225_002\np226_001 {''.join(symbols)}\n"
    (tmp_path / "text.rm.sqvae.json").unlink()
    back = read_format(tmp_path / "text.rm.sqvae")  # by its dictionary and its form
    assert back.meta == UnitStoreMeta(100, deduplicated=True)
    assert back["p226_001"].codes.tolist() == [[71, 12, 57]]
    (tmp_path / "text.rm.x").write_text("a 丁 x\n")
    with pytest.raises(UserError, match=r"text\.rm\.x:1: 'x' \(U\+0078\) is not a unit"):
        read_format(tmp_path / "text.rm.x", codebook_size=100)
    with pytest.raises(UserError, match="these are not; give --deduplicate"):
        write_format(tmp_path / "text.rm.y", store)
    with pytest.raises(UserError, match="these are; give --expand"):
        write_format(tmp_path / "text.ts.y", deduplicated(store))


def test_the_largest_codebook_of_characters(tmp_path):
    top = store_of([UtteranceUnits("a", np.array([[20_991]]))], UnitStoreMeta(20_992))
    write_format(tmp_path / "text.ts.a", top)
    assert (tmp_path / "text.ts.a").read_text() == "a \u9fff\n"
    with pytest.raises(UserError, match="has 20993 codes, and espnet-ts has symbols for 20992; take another form"):
        write_format(tmp_path / "text.ts.b", store_of([UtteranceUnits("a", np.array([[0]]))], UnitStoreMeta(20_993)))
    assert not (tmp_path / "text.ts.b").exists()


SEVERAL = store_of(
    [UtteranceUnits("b", np.array([[1, 2, 3], [4, 5, 6]])), UtteranceUnits("a", np.zeros((2, 0), int))],
    UnitStoreMeta(8, 2),
)


def test_kaldi_archives_as_kaldiio_reads_them(store, tmp_path):
    write_format(tmp_path / "units.scp", store)
    read = kaldiio.load_scp(str(tmp_path / "units.scp"))
    assert list(read) == ["p225_001", "p225_002", "p226_001"]
    for units in store:
        value = read[units.utterance_id]
        assert value.dtype == np.int32
        np.testing.assert_array_equal(value, units.codes[0])
    in_order = dict(kaldiio.load_ark(str(tmp_path / "units.ark")))
    assert {name: [value.tolist()] for name, value in in_order.items()} == codes(store)


def test_kaldi_archives_as_kaldiio_writes_them(tmp_path):
    values = {"z": np.arange(9, dtype=np.int32), "a": np.zeros(0, np.int32)}
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/u.ark,{tmp_path}/u.scp") as write:
        for name, value in values.items():
            write(name, value)
    expected = {name: [value.tolist()] for name, value in values.items()}
    assert codes(read_format(tmp_path / "u.scp", codebook_size=9)) == expected
    assert codes(read_format(tmp_path / "u.ark", codebook_size=9)) == expected
    moved = tmp_path / "moved"
    tmp_path.joinpath("u.ark").rename(tmp_path / "u2")
    moved.mkdir()
    (tmp_path / "u2").rename(moved / "u.ark")
    (tmp_path / "u.scp").rename(moved / "u.scp")
    assert codes(read_format(moved / "u.scp", codebook_size=9)) == expected


def test_espnet_speechlm(tmp_path):
    write_format(tmp_path / "codec.scp", SEVERAL, "espnet-speechlm")
    read = kaldiio.load_scp(str(tmp_path / "codec.scp"))
    assert read["b"].tolist() == [1, 12, 2, 13, 3, 14]  # T x N, layer 1 shifted by K
    assert (tmp_path / "codec_vocab.txt").read_text().split() == [
        f"<codec_layer{layer}_code{code}>" for layer in range(2) for code in range(8)
    ]
    (tmp_path / "codec.scp.json").unlink()
    back = read_format(tmp_path / "codec.scp", "espnet-speechlm")  # the vocabulary says N and K
    assert (back.meta.num_codebooks, back.meta.codebook_size) == (2, 8)
    assert codes(back) == codes(SEVERAL)
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/x.ark,{tmp_path}/x.scp") as write:
        write("b", np.array([1, 0], dtype=np.int32))
    with pytest.raises(UserError, match="1: b: code -8 is outside"):
        read_format(tmp_path / "x.scp", "espnet-speechlm")


def test_speechbrain(tmp_path):
    write_format(tmp_path / "tokens.scp", SEVERAL, "speechbrain")
    tokens = kaldiio.load_scp(str(tmp_path / "tokens.scp"))  # as SpeechBrain's loader does
    np.testing.assert_array_equal(tokens["b"], np.array([[1, 4], [2, 5], [3, 6]]) + 1 + np.array([0, 8]))
    assert tokens["a"].shape == (0, 2)
    options = {"codebook_size": 8, "num_codebooks": 2}
    padded = np.pad(tokens["b"], ((0, 4), (0, 0)))
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/p.ark,{tmp_path}/p.scp", write_function="numpy") as write:
        write("b", padded)
    assert codes(read_format(tmp_path / "p.scp", "speechbrain", **options)) == {"b": SEVERAL["b"].codes.tolist()}
    padded[2, 1] = 0
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/q.ark,{tmp_path}/q.scp", write_function="numpy") as write:
        write("b", padded)
    with pytest.raises(UserError, match=r"layers have \[3, 2\] tokens"):
        read_format(tmp_path / "q.scp", "speechbrain", **options)


def test_nothing_is_unpickled(tmp_path):
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/p.ark,{tmp_path}/p.scp", write_function="pickle") as write:
        write("b", np.arange(3, dtype=np.int32))
    with pytest.raises(UserError, match=r"p\.ark:2\): neither an int32 vector nor a NumPy array .*b'PKL'"):
        read_format(tmp_path / "p.scp", codebook_size=9)
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"x\.npy: Object arrays cannot be loaded"):
        read_format(tmp_path, "npy", codebook_size=9)


def test_a_tree_of_npy_files(store, data_dir, tmp_path):
    write_format(tmp_path / "flat", store, "npy")
    np.testing.assert_array_equal(np.load(tmp_path / "flat" / "p226_001.npy"), [71, 12, 12, 57])
    write_format(tmp_path / "tree", store, "npy", data_dir=data_dir)
    assert np.load(tmp_path / "tree" / "p226" / "p226_001_mic1.npy").shape == (4,)
    assert read_format(tmp_path / "tree").ids == store.ids
    assert codes(read_format(tmp_path / "tree")) == codes(store)
    (tmp_path / "tree" / "ids.txt").unlink()  # a tree of somebody else's
    (tmp_path / "tree" / "units.json").unlink()
    assert sorted(read_format(tmp_path / "tree", codebook_size=100).ids) == [
        "p225%2Fp225_001_mic1",
        "p225%2Fp225_002_mic1",
        "p226%2Fp226_001_mic1",
    ]
    with pytest.raises(UserError, match="not an empty folder"):
        write_format(tmp_path / "tree", store, "npy")
    (tmp_path / "flat" / "ids.txt").write_text("a ../../secret.npy\n")
    with pytest.raises(UserError, match=r"ids\.txt:1: expected `utt place\.npy` below the folder"):
        read_format(tmp_path / "flat")


def test_ids_do_not_leave_the_folder(tmp_path):
    names = ["%2Fetc%2Fx", "a%2F%2Fb", "%2F%2F", "c%2Fd"]
    store = store_of([UtteranceUnits(name, np.array([[1]])) for name in names], UnitStoreMeta(4))
    write_format(tmp_path / "in" / "tree", store, "npy")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert (tmp_path / "in" / "tree" / "c" / "d.npy").is_file()
    assert read_format(tmp_path / "in" / "tree").ids == names


def test_jsonl_of_somebody_else(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"utterance_id": "a b", "codes": [3, 1], "durations": [2, 5], "extra": {}}\n'
        '{"utterance_id": "c", "codes": []}\n'
    )
    back = read_format(tmp_path / "a.jsonl", codebook_size=4)
    assert back.ids == ["a%20b", "c"]
    assert back.meta.deduplicated
    assert back["a%20b"].durations.tolist() == [2, 5]
    for line, message in {
        '{"codes": [1]}': "no 'utterance_id'",
        "[1]": "expected an object",
        '{"utterance_id": "a", "codes": [[1], [2, 3]]}': "a.jsonl:1: ",
        '{"utterance_id": "a", "codes": [1.5]}': "codes are integers",
        '{"utterance_id": "a", "codes": [1], "samples": [[[1]]]}': "'samples' needs what a.jsonl.json says",
        "{": "Expecting property name",
    }.items():
        (tmp_path / "a.jsonl").write_text(line + "\n")
        with pytest.raises(UserError, match=message.replace("[", r"\[")):
            read_format(tmp_path / "a.jsonl", codebook_size=4)


def test_what_a_sidecar_says_is_not_overruled(store, tmp_path):
    write_format(tmp_path / "a.gslm", deduplicated(store))
    back = open_format(tmp_path / "a.gslm")
    assert back.meta.deduplicated
    assert back.meta.frame_rate == 50
    with pytest.raises(UserError, match="the units are at 50 Hz"):
        open_format(tmp_path / "a.gslm", options=ReadOptions(frame_rate=25))
    write_format(tmp_path / "b.gslm", store)
    with pytest.raises(UserError, match=r"--already-deduplicated given, and b\.gslm\.json says that it is not"):
        open_format(tmp_path / "b.gslm", options=ReadOptions(deduplicated=True))
    (tmp_path / "b.gslm").write_text("one|1 2 3\n")
    with pytest.raises(UserError, match=r"has 1 utterances, and its sidecar \(\.json\) was written for 3"):
        read_format(tmp_path / "b.gslm")
    (tmp_path / "b.gslm.json").write_text("{}")
    with pytest.raises(UserError, match=r"b\.gslm\.json: not what an export wrote"):
        read_format(tmp_path / "b.gslm")
    (tmp_path / "b.gslm.json").unlink()
    assert read_format(tmp_path / "b.gslm", deduplicated=True).meta.deduplicated


def test_units_that_never_repeat_are_suspected(tmp_path, caplog):
    (tmp_path / "a.gslm").write_text(f"a|{' '.join(['1 2'] * 600)}\n")
    read_format(tmp_path / "a.gslm", codebook_size=4)
    assert "no unit follows itself in 1199; if they are deduplicated, say so: --already-deduplicated" in caplog.text
    caplog.clear()
    read_format(tmp_path / "a.gslm", codebook_size=4, deduplicated=True)
    (tmp_path / "a.gslm").write_text(f"a|{' '.join(['1 2 2'] * 600)}\n")
    read_format(tmp_path / "a.gslm", codebook_size=4)
    assert caplog.text == ""


def test_every_form_holds_one_codebook_or_all(tmp_path):
    for name, form in FORMS.items():
        path = file_of(tmp_path / name / "a", name)
        if form.several_codebooks:
            write_format(path, SEVERAL, name)
        else:
            with pytest.raises(UserError, match=f"2 codebooks and {name} holds one; choose one with --codebook"):
                write_format(path, SEVERAL, name)
            assert not (tmp_path / name).exists()
