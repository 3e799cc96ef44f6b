"""The configurations of the published image experiments: what sony/sqvae (vision/configs) says, and their models."""

from pathlib import Path

import pytest
import torch

from sqvae_speech.config import load_config
from sqvae_speech.experiments.trials import expand, load_sweep
from sqvae_speech.images.spec import ImageSpec
from sqvae_speech.models.image import ImageModel
from sqvae_speech.training.image_config import ImageTrainConfig

EGS = Path(__file__).resolve().parents[2] / "egs"
SPECS = {
    "mnist": ImageSpec(28, 28, 1),
    "fashion_mnist": ImageSpec(28, 28, 1),
    "cifar10": ImageSpec(32, 32),
    "celeba": ImageSpec(64, 64),
    "celebamask_hq": ImageSpec(64, 64, 1, 19),
    "mini_image": ImageSpec(28, 28, 1),
}
CONFIGS = sorted(
    path.relative_to(EGS).as_posix()
    for name in SPECS
    for path in (EGS / name / "conf").rglob("*.yaml")
    if not path.name.startswith(("sweep", "prior"))
)
SWEEPS = sorted(path for name in SPECS for path in (EGS / name / "conf").glob("sweep*.yaml"))
# experiment: quantizer, covariance, where exp(s) starts, K, D, blocks, epochs, training images
PUBLISHED = {
    "mnist/conf/train.yaml": ("gaussian", "global", 10.0, 128, 64, 2, 100, 50_000),
    "fashion_mnist/conf/train.yaml": ("gaussian", "global", 10.0, 256, 64, 2, 100, 50_000),
    "cifar10/conf/train.yaml": ("gaussian", "global", 20.0, 512, 64, 2, 100, 40_000),
    "cifar10/conf/vmf.yaml": ("vmf", "global", 0.05, 512, 64, 2, 100, 40_000),
    "celeba/conf/train.yaml": ("gaussian", "global", 20.0, 512, 64, 6, 70, 162_770),
    "celeba/conf/type2.yaml": ("gaussian", "sample", 20.0, 512, 64, 6, 70, 162_770),
    "celeba/conf/type3.yaml": ("gaussian", "position", 20.0, 512, 64, 6, 70, 162_770),
    "celeba/conf/type4.yaml": ("gaussian", "diagonal", 20.0, 512, 64, 6, 70, 162_770),
    "celebamask_hq/conf/train.yaml": ("vmf", "global", 0.05, 64, 65, 2, 70, 24_183),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_experiments_have_the_published_settings(name):
    kind, covariance, start, size, dim, blocks, epochs, images = PUBLISHED[name]
    config = load_config(ImageTrainConfig, EGS / name)
    quantizer, training = config.model.quantizer, config.training
    assert (quantizer.kind, quantizer.covariance, quantizer.variance_sum) == (kind, covariance, True)
    assert (quantizer.init_variance if kind == "gaussian" else quantizer.init_kappa) == start
    assert (quantizer.codebook_size, quantizer.dim, config.model.num_blocks) == (size, dim, blocks)
    labels = SPECS[name.partition("/")[0]].is_labels
    assert config.model.likelihood == ("vmf" if labels else "arelbo")
    assert (config.model.activation, config.model.likelihood_kappa) == ("softplus" if labels else "sigmoid", 100.0)
    assert (training.batch_size, training.learning_rate, training.max_grad_norm) == (32, 1e-3, 0.0)
    assert (training.temperature_init, training.temperature_decay) == (1.0, 1e-5)
    assert (training.schedule, training.patience, training.gamma) == ("plateau", 3, 0.5)
    epoch = -(-images // 32)  # the last batch of an epoch is a smaller one there
    assert (training.valid_interval, training.num_steps) == (epoch, epochs * epoch)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_makes_a_model_of_its_data(name):
    config = load_config(ImageTrainConfig, EGS / name)
    model = ImageModel(config.model, SPECS[name.partition("/")[0]])
    out = model(torch.zeros(2, *model.spec.shape, dtype=torch.uint8))
    assert torch.isfinite(out.loss)


@pytest.mark.parametrize("path", SWEEPS, ids=[path.relative_to(EGS).as_posix() for path in SWEEPS])
def test_every_sweep_is_of_image_models(path):
    trials = expand(load_sweep(path), path.parent)
    assert {trial.config["task"] for trial in trials} == {"image"}
