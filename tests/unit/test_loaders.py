"""docs/loaders.md, run from top to bottom: with the libraries that it names, and by exact bytes elsewhere."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from documentation import ROOT, blocks, run_bash, run_python
from units_world import SECONDS, make_world

from sqvae_speech.units.store import read_units

PAGE = ROOT / "docs" / "loaders.md"


def run(section: str) -> SimpleNamespace:
    """Run the blocks of a section in the current folder; gives what its Python defines."""
    names: dict = {"__name__": "loaders"}
    for block in blocks(PAGE):
        if block.section == section and block.language == "bash":
            run_bash(block)
        elif block.section == section and block.language == "python":
            run_python([block], names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("loaders"))
    (world.root / "exp").symlink_to(world.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.root)
        run("")
    return SimpleNamespace(**vars(world), store=read_units(world.root / "units" / "test.parquet"))


@pytest.fixture(autouse=True)
def in_the_folder(world, monkeypatch):
    monkeypatch.chdir(world.root)


def codes(world) -> dict[str, list[int]]:
    return {units.utterance_id: units.codes[0].tolist() for units in world.store}


def test_every_section_is_run_here():
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'run("{block.section}")' in text for block in blocks(PAGE))


def test_python(world):
    found = run("Python")
    assert found.units.f0.shape == found.units.codes.shape[1:]
    assert found.durations == pytest.approx(SECONDS)


def test_pytorch(world):
    found = run("PyTorch")
    assert found.lengths.tolist() == [len(row) for row in list(codes(world).values())[:4]]
    for row, length, expected in zip(found.batch, found.lengths, codes(world).values(), strict=False):
        assert row[:length].tolist() == expected
        assert torch.all(row[length:] == -1)


def test_datasets(world, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    found = run("Hugging Face `datasets`")
    assert len(found.dataset) == len(SECONDS)
    for row, units in zip(found.dataset, world.store, strict=True):
        assert (row["utterance_id"], row["speaker"]) == (units.utterance_id, units.speaker)
        np.testing.assert_array_equal(np.stack(row["codes"]), units.codes)
        np.testing.assert_array_equal(row["f0"], units.f0)
    assert [line["codes"][0] for line in found.lines] == list(codes(world).values())


def test_lhotse(world):
    pytest.importorskip("lhotse")
    found = run("lhotse")
    np.testing.assert_array_equal(found.cut.load_units(), world.store["ann-1"].codes.T)
    part = found.cut.truncate(offset=0.2, duration=0.2).load_units()
    np.testing.assert_array_equal(part, world.store["ann-1"].codes.T[10:20])
    assert len(found.cuts) == len(SECONDS)


def test_kaldiio(world):
    found = run("Kaldi archives")
    assert {name: value.tolist() for name, value in found.archive.items()} == codes(world)
    assert found.archive["ann-1"].dtype == np.int32


def test_espnet(world):
    run("ESPnet")
    labels, characters, collapsed = "", "", ""
    for name in sorted(SECONDS):
        units = codes(world)[name]
        once = [unit for place, unit in enumerate(units) if place == 0 or unit != units[place - 1]]
        labels += f"{name} {' '.join(map(str, units))}".rstrip() + "\n"
        characters += f"{name} {''.join(chr(0x4E00 + unit) for unit in units)}".rstrip() + "\n"
        collapsed += f"{name} {''.join(chr(0x4E00 + unit) for unit in once)}".rstrip() + "\n"
    folder = world.root / "dump" / "raw" / "test"
    for name, text in {
        "text.km.sqvae": labels,
        "text.ts.sqvae": characters,
        "text.rm.sqvae": collapsed,
        "tokens.txt": "".join(f"{code}\n" for code in range(32)),
        "tokens.cjk.txt": "".join(f"{chr(0x4E00 + code)}\n" for code in range(32)),
    }.items():
        assert (folder / name).read_bytes() == text.encode(), name
    words = (world.root / "dump" / "codec" / "codec_vocab.txt").read_text().split()
    assert words == [f"<codec_layer0_code{code}>" for code in range(32)]


def test_fairseq_and_gslm(world):
    run("fairseq and GSLM")
    lines = {name: " ".join(map(str, units)) for name, units in codes(world).items()}
    samples = {name: round(seconds * 16_000) for name, seconds in SECONDS.items()}
    wavs = world.root / "wavs"
    speakers = {units.utterance_id: units.speaker for units in world.store}
    for file, text in {
        "fairseq/test.km": "".join(f"{line}\n" for line in lines.values()),
        "fairseq/test.tsv": f"{wavs}\n" + "".join(f"{name}.wav\t{samples[name]}\n" for name in lines),
        "fairseq/dict.km.txt": "".join(f"{code} 1\n" for code in range(32)),
        "gslm/test.gslm": "".join(f"{name}|{line}\n" for name, line in lines.items()),
        "gslm/code_dict": "".join(f"{code}\n" for code in range(32)),
        "pgslm/test.pgslm.jsonl": "".join(
            f'{{"audio": "{wavs / name}.wav", "duration": {samples[name] / 16_000}, "hubert_km100": "{line}", '
            f'"speaker": "{speakers[name]}"}}\n'
            for name, line in lines.items()
        ),
    }.items():
        assert (world.root / file).read_bytes() == text.encode(), file


def test_others(world):
    run("textlesslib, SpeechBrain, arrays")
    for suffix in ("units", "durations", "f0s"):
        lines = (world.root / "textless" / f"test.{suffix}").read_text().splitlines()
        assert [line.split("\t")[0] for line in lines] == list(SECONDS)
    units, lasting = (
        {name: numbers.split() for name, numbers in (line.split("\t") for line in path.read_text().splitlines())}
        for path in (world.root / "textless" / "test.units", world.root / "textless" / "test.durations")
    )
    for name, expected in codes(world).items():
        runs = zip(units[name], lasting[name], strict=True)
        assert [int(unit) for unit, count in runs for _ in range(int(count))] == expected
        np.testing.assert_array_equal(np.load(world.root / "npys" / f"{name}.npy"), expected)
