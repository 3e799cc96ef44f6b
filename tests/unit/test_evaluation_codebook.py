"""The codebook report against counts and means taken one unit at a time."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import entropy
from units_world import make_model, make_world

from sqvae_speech.audio.vocoder import GriffinLim
from sqvae_speech.audio.wav import read_wav
from sqvae_speech.data.kaldi import DataDir, Interval
from sqvae_speech.data.reader import iterate_utterances
from sqvae_speech.errors import UserError
from sqvae_speech.evaluation.codebook_files import code_wavs, usage_over_time, write_codebook_report
from sqvae_speech.evaluation.codebook_report import codebook_report, nearest_codes, principal_plane
from sqvae_speech.evaluation.sets import EvaluationSet
from sqvae_speech.evaluation.sources import ModelSource


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("codebook")
    world = make_world(root)
    data = DataDir.read(root / "data" / "test")
    for utterance in data:
        edge = round(utterance.duration / 2, 3)
        ali = (Interval(0.0, edge, "a"), Interval(edge, utterance.duration, "b"))
        object.__setattr__(utterance, "ali", ali)
    data.write(root / "aligned")
    world.aligned = EvaluationSet.of([world.shards], [root / "aligned"])
    return world


@pytest.mark.parametrize("variance", [10.0, 0.02])
def test_report_against_single_units(world, tmp_path, variance):
    context = 3
    bundle = make_model(tmp_path / "model", init_variance=variance)
    report = codebook_report(ModelSource(bundle), world.aligned, context=context)
    entropies, mels, phones = {}, {}, {}
    for utterance in world.aligned:
        mel = torch.from_numpy(utterance.mel)[None]
        codes = bundle.model.encode(mel).indices[0].tolist()
        posterior = bundle.model.posterior(mel)[0].double().numpy()
        for unit, code in enumerate(codes):
            entropies.setdefault(code, []).append(entropy(posterior[unit]))
            frames = [min(max(2 * unit + 1 + n, 0), utterance.mel.shape[1] - 1) for n in range(-context, 2 + context)]
            mels.setdefault(code, []).append(utterance.mel[:, frames])
            middle = 0.02 * unit + 0.015
            labels = [label for onset, offset, label in utterance.meta["ali"] if onset <= middle < offset]
            phones.setdefault(code, []).extend(labels)
    assert report.counts.tolist() == [len(entropies.get(code, [])) for code in range(32)]
    assert report.dead.tolist() == [code for code in range(32) if code not in entropies]
    assert 0 < len(report.dead) < 32
    for code, values in entropies.items():
        assert report.posterior_entropy[code] == pytest.approx(np.mean(values), abs=1e-4)
        np.testing.assert_allclose(report.mean_mels[code], np.mean(mels[code], axis=0), atol=1e-5)
        assert report.phone_counts[code].tolist() == [phones[code].count(label) for label in ("a", "b")]
    assert np.isnan(report.posterior_entropy[report.dead]).all()
    everything = np.concatenate(list(entropies.values())).clip(0, math.log(32))
    expected, _ = np.histogram(everything, bins=len(report.entropy_histogram), range=(0, math.log(32)))
    assert np.abs(np.cumsum(report.entropy_histogram - expected)).max() <= 1  # one on the edge of a bin
    assert set(report.scale) == {"variance", "relative_variance"}


def test_variance_is_that_of_the_model(world, tmp_path):
    bundle = make_model(tmp_path / "one", covariance="global", init_variance=0.7)
    report = codebook_report(ModelSource(bundle, max_frames=80), iterate_utterances(world.shards))
    assert report.scale["variance"] == pytest.approx(0.7, rel=1e-5)
    assert report.phones == ()
    bundle = make_model(tmp_path / "vmf", kind="vmf", init_kappa=12.0)
    assert codebook_report(ModelSource(bundle), iterate_utterances(world.shards)).scale == {
        "kappa": pytest.approx(12)
    }
    bundle = make_model(tmp_path / "vq", kind="vq")
    report = codebook_report(ModelSource(bundle), iterate_utterances(world.shards))
    assert report.scale == {}
    assert np.nanmax(report.posterior_entropy) == 0


@pytest.mark.parametrize(
    "quantizer", [{"num_quantizers": 2}, {"num_groups": 2}, {"num_quantizers": 2, "num_groups": 2}]
)
def test_each_of_several_codebooks(world, tmp_path, quantizer):
    bundle = make_model(tmp_path / "model", **quantizer)
    source = ModelSource(bundle)
    count = source.num_codebooks
    reports = [codebook_report(source, iterate_utterances(world.shards), codebook=book) for book in range(count)]
    codes = [sequence.codes for sequence in source.frames(iterate_utterances(world.shards), [])]
    for book, report in enumerate(reports):
        np.testing.assert_array_equal(report.counts, sum(np.bincount(one[book], minlength=32) for one in codes))
        # two codes that differ in this book alone decode to vectors as far apart as the report says
        one, other = torch.zeros(1, 1, count, dtype=torch.int64), torch.zeros(1, 1, count, dtype=torch.int64)
        one[..., book], other[..., book] = 3, report.neighbours[3, 0]
        distance = (bundle.model.quantizer.decode(one) - bundle.model.quantizer.decode(other)).detach().norm()
        assert report.distances[3, 0] == pytest.approx(float(distance), rel=1e-5)
    with pytest.raises(UserError, match=f"--codebook {count}"):
        codebook_report(source, [], codebook=count)


def test_map_and_neighbours():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 6)) * [5, 3, 0.1, 0.1, 0.1, 0.1] + 100
    positions, explained = principal_plane(vectors)
    assert explained > 0.99
    np.testing.assert_allclose(cdist(positions, positions), cdist(vectors, vectors), atol=1.0)
    assert explained == pytest.approx(positions.var(axis=0).sum() / vectors.var(axis=0).sum())
    np.testing.assert_allclose(positions, principal_plane(vectors + 7)[0], atol=1e-9)
    assert principal_plane(np.ones((3, 4)))[1] == 1.0
    neighbours, distances = nearest_codes(vectors, 4)
    full = cdist(vectors, vectors)
    for code in range(20):
        expected = [other for other in np.argsort(full[code]) if other != code][:4]
        assert neighbours[code].tolist() == expected
        np.testing.assert_allclose(distances[code], full[code, expected])
    assert nearest_codes(vectors[:3], 9)[0].shape == (3, 2)


def test_files_and_sounds(world, tmp_path):
    source = ModelSource(world.bundle)
    report = codebook_report(source, world.aligned)
    run = tmp_path / "exp"
    run.mkdir()
    lines = [{"step": 10, "split": "valid", "usage": 0.5, "db2": 3.0}, {"step": 20, "split": "valid", "usage": 0.75}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "spl')
    assert usage_over_time(run) == {"valid/usage": ([10, 20], [0.5, 0.75])}
    assert usage_over_time(tmp_path) == {}
    files = write_codebook_report(tmp_path / "out", report, source, exp_dir=run, most_used=2)
    names = {file.name for file in files}
    assert {"codebook.json", "frequency.png", "map.png", "posterior_entropy.png", "over_time.png"} < names
    assert all(file.is_file() for file in files)
    values = json.loads((tmp_path / "out" / "codebook.json").read_text())
    first = int(report.by_frequency[0])
    assert values["codes"][first]["count"] == report.counts.max()
    assert values["codes"][first]["phones"] == {
        label: count for label, count in zip(("a", "b"), report.phone_counts[first].tolist(), strict=True) if count
    }
    assert values["codes"][int(report.dead[0])]["posterior_entropy"] is None
    wav, rate = read_wav(tmp_path / "out" / "wav" / f"code-{first}.wav")
    assert rate == 16_000
    assert np.abs(wav).max() > 0.01
    assert set(code_wavs(report, [first, int(report.dead[0])], GriffinLim(world.bundle.mel_spec, n_iter=1))) == {
        first
    }
