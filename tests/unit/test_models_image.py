"""The image model: any quantizer on any network, encoding and decoding, storage."""

import dataclasses
import json

import pytest
import torch
from torch import Tensor, nn

from sqvae_speech.config import to_dict
from sqvae_speech.errors import UserError
from sqvae_speech.images.spec import ImageSpec
from sqvae_speech.models.heads import log_var_for
from sqvae_speech.models.image import ImageModel, ImageModelConfig
from sqvae_speech.models.pretrained import load_speech_model
from sqvae_speech.models.pretrained_image import ImageBundle, load_image_model, save_image_model
from sqvae_speech.quantization import QuantizerConfig, build_quantizer

SIZE, DIM, CLASSES = 17, 6, 5
KINDS = {
    **{name: QuantizerConfig("gaussian", SIZE, DIM, name) for name in ("global", "sample", "position", "diagonal")},
    "sum": QuantizerConfig("gaussian", SIZE, DIM, "sample", variance_sum=True),
    "vmf": QuantizerConfig("vmf", SIZE, DIM),
    "ema": QuantizerConfig("vq", SIZE, DIM),
    "gradient": QuantizerConfig("vq", SIZE, DIM, codebook_update="gradient"),
    "residual": QuantizerConfig("gaussian", SIZE, DIM, "position", num_quantizers=3),
    "grouped": QuantizerConfig("gaussian", SIZE, DIM, num_groups=2, num_quantizers=2),
}
# network, likelihood -> spec; sizes that are not square, nor those that the networks were published for
SPECS = {
    ("28x28", "gaussian"): ImageSpec(12, 8, 1),
    ("32x32", "arelbo"): ImageSpec(8, 12, 3),
    ("64x64", "fixed"): ImageSpec(16, 12, 3),
    ("label_map", "vmf"): ImageSpec(16, 24, 1, CLASSES),
    ("label_map", "categorical"): ImageSpec(16, 24, 1, CLASSES),
}


def make_model(kind: str = "diagonal", network: str = "32x32", likelihood: str = "arelbo") -> ImageModel:
    torch.manual_seed(0)
    activation = {"vmf": "softplus", "categorical": "none"}.get(likelihood, "sigmoid")
    config = ImageModelConfig(network, 2, activation, likelihood, quantizer=KINDS[kind])
    model = ImageModel(config, SPECS[network, likelihood])
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():  # as after training: running statistics that are not 0 and 1, weights that matter
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.2 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.1 + torch.rand(module.num_features, generator=generator))
    with torch.no_grad():  # codes where the latents are, so that many are chosen
        latents, _ = model.eval().latents(images(model.spec, 16))
        model.quantizer.start_from(latents.flatten(0, -2), generator)
    return model.train()


def images(spec: ImageSpec, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(spec.num_classes or 256, (count, *spec.shape), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("network", "likelihood"), SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_quantizer_in_any_network(kind, network, likelihood):
    model = make_model(kind, network, likelihood)
    spec = model.spec
    batch = images(spec)
    down = 8 if network == "label_map" else 4
    assert model.latent_shape == (spec.height // down, spec.width // down)
    several = () if model.num_codebooks == 1 else (model.num_codebooks,)
    out = model(batch, temperature=0.7)
    assert out.quantization.indices.shape == (3, *model.latent_shape, *several)
    assert out.quantization.quantized.shape == (3, *model.latent_shape, DIM)
    assert out.reconstruction.shape == (3, model.channels, spec.height, spec.width)
    assert out.metrics.keys() == {"accuracy" if spec.is_labels else "mse"}
    torch.testing.assert_close(out.loss.detach(), out.reconstruction_loss + out.quantization.loss.detach())
    out.loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    model.eval()
    codes = model.encode(batch)
    assert codes.shape == (3, *model.latent_shape, *several)
    assert codes.dtype == torch.int64
    assert model.posterior(batch).shape == (*codes.shape, SIZE)
    decoded = model.decode(codes)
    assert decoded.shape == batch.shape
    assert decoded.dtype == (torch.int64 if spec.is_labels else torch.float32)
    assert decoded.min() >= 0
    assert decoded.max() <= (CLASSES - 1 if spec.is_labels else 1)
    assert torch.equal(model.reconstruct(batch), decoded)
    with torch.no_grad():
        # not to the last bit: VQ's straight-through estimator hands the decoder z + (b - z)
        torch.testing.assert_close(model.pixels(model(batch).reconstruction), decoded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("network", "likelihood"), [("32x32", "arelbo"), ("label_map", "vmf")])
def test_a_batch_gives_what_each_image_gives_alone(kind, network, likelihood):
    model = make_model(kind, network, likelihood).eval()
    batch = images(model.spec, 5)
    codes, posterior, decoded = model.encode(batch), model.posterior(batch), model.reconstruct(batch)
    assert len(codes.unique()) > 3
    for i in range(len(batch)):
        alone = batch[i : i + 1]
        assert torch.equal(model.encode(alone)[0], codes[i])
        torch.testing.assert_close(model.posterior(alone)[0], posterior[i], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(model.reconstruct(alone)[0], decoded[i], rtol=1e-5, atol=1e-6)


def test_levels_as_bytes_and_as_floats_are_the_same_images():
    model = make_model().eval()
    batch = images(model.spec)
    with torch.no_grad():
        left, right = model(batch), model(batch.double().div(255).float())
    torch.testing.assert_close(left.loss, right.loss)
    assert torch.equal(left.quantization.indices, right.quantization.indices)
    assert left.target.max() == batch.max() / 255


@pytest.mark.parametrize("kind", ["sample", "position", "diagonal"])
def test_the_variance_is_the_mean_that_its_type_says(kind):
    model = make_model(kind).eval()
    batch = images(model.spec)
    with torch.no_grad():
        _, log_var = model.latents(batch)
        _, head = model.encoder(model.target(batch))
    axes = {"sample": (1, 2, 3), "position": (3,), "diagonal": ()}[kind]
    torch.testing.assert_close(log_var, head.mean(dim=axes, keepdim=True) if axes else head)


def test_log_var_of_one_channel_counts_real_positions_only():
    quantizer = build_quantizer(KINDS["sample"])
    head, mask = torch.randn(2, 3, 4, 1), torch.rand(2, 3, 4) < 0.5
    padded = head.masked_fill(~mask[..., None], torch.nan)
    log_var = log_var_for(quantizer, padded, mask)
    assert log_var.shape == (2, 1, 1, 1)
    for i in range(2):
        torch.testing.assert_close(log_var[i].reshape(()), head[i][mask[i]].mean())


def test_published_variances():
    """Type I of the published image code: σ² = 1 + exp(s), and so κ = 1 + exp(s)."""
    for kind, name, start in (
        ("gaussian", "variance", {"init_variance": 20.0}),
        ("vmf", "kappa", {"init_kappa": 0.05}),
    ):
        quantizer = QuantizerConfig(kind, SIZE, DIM, "global", variance_sum=True, **start)
        model = ImageModel(ImageModelConfig("32x32", quantizer=quantizer), SPECS["32x32", "arelbo"])
        metrics = model(images(model.spec)).quantization.metrics
        assert metrics[name].item() == pytest.approx(1 + next(iter(start.values())), rel=1e-5)


def test_the_first_stages_of_a_residual_model_decode_alone():
    model = make_model("residual").eval()
    codes = model.encode(images(model.spec))
    one = model.decode(codes[..., :1])
    assert (one - model.decode(codes)).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(one, model.decoder(model.quantizer.stages[0].decode(codes[..., 0])))


def test_latents_and_codes_lie_in_the_image_where_they_look():
    """Changing a corner changes codes near it, and no reconstruction far from it."""
    torch.manual_seed(0)
    model = ImageModel(ImageModelConfig("28x28", 1, quantizer=KINDS["global"]), ImageSpec(64, 64, 1)).eval()
    batch = images(model.spec, 1)
    changed = batch.clone()
    changed[..., :4, :4] = 255 - changed[..., :4, :4]
    with torch.no_grad():
        moved = (model.latents(batch)[0] - model.latents(changed)[0]).abs().amax(dim=-1)[0] > 0
    assert moved[0, 0]
    assert not moved[4:].any()
    assert not moved[:, 4:].any()


@pytest.mark.parametrize(("network", "likelihood"), SPECS)
def test_a_saved_model_is_the_model(network, likelihood, tmp_path):
    model = make_model("diagonal", network, likelihood).eval()
    save_image_model(tmp_path, ImageBundle(model, 7))
    bundle = load_image_model(tmp_path)
    assert (bundle.step, bundle.image_spec, bundle.path) == (7, model.spec, str(tmp_path))
    assert bundle.config == to_dict(model.config)
    assert len(bundle.fingerprint) == 64
    assert not bundle.model.training
    batch = images(model.spec)
    assert torch.equal(bundle.model.reconstruct(batch), model.reconstruct(batch))


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="no model at"):
        load_image_model(tmp_path / "nowhere")
    model = make_model()
    save_image_model(tmp_path, ImageBundle(model))
    with pytest.raises(UserError, match="a model of kind 'image', this needs one of kind 'speech'"):
        load_speech_model(tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "image_spec"}))
    with pytest.raises(UserError, match="has no 'image_spec'"):
        load_image_model(tmp_path)
    facts["model"]["quantizer"]["codebook_size"] += 1
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="does not fit config"):
        load_image_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged or not ours"):
        load_image_model(tmp_path)


def test_bad_settings_and_bad_images():
    with pytest.raises(ValueError, match="network must be one of 28x28, 32x32, 64x64, label_map, got '16x16'"):
        ImageModelConfig("16x16")
    with pytest.raises(ValueError, match="activation must be one of sigmoid, softplus, none, got 'relu'"):
        ImageModelConfig(activation="relu")
    with pytest.raises(ValueError, match="num_blocks must be at least 1, got 0"):
        ImageModelConfig(num_blocks=0)
    small = ImageModelConfig(quantizer=KINDS["global"])
    with pytest.raises(ValueError, match="multiples of 4, got 30 x 32: prepare the images in another size"):
        ImageModel(small, ImageSpec(30, 32))
    with pytest.raises(ValueError, match="one of vmf, categorical for 8 x 8 label maps of 5 classes, got 'arelbo'"):
        ImageModel(small, ImageSpec(8, 8, 1, 5))
    with pytest.raises(ValueError, match="one of arelbo, gaussian, fixed for 8 x 8 RGB, got 'vmf'"):
        ImageModel(dataclasses.replace(small, likelihood="vmf"), ImageSpec(8, 8))
    with pytest.raises(ValueError, match=r"expected \(B, 3, 8, 12\), 8 x 12 RGB, got \(2, 1, 8, 12\)"):
        make_model().encode(torch.zeros(2, 1, 8, 12, dtype=torch.uint8))
