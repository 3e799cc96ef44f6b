"""The published image networks (sony/sqvae, vision/networks): numbers of parameters and shapes, layer by layer.

The counts are those of the published classes themselves, built with 64 channels (65 for label maps, which the
published code adds for its vMF models); the arithmetic beside them is written from the layers.
"""

import pytest
import torch
from torch import nn

from sqvae_speech.images.spec import ImageSpec
from sqvae_speech.models.image import ImageModel, ImageModelConfig
from sqvae_speech.models.image_networks import ResidualBlock
from sqvae_speech.quantization import QuantizerConfig

# network: spec, dim, blocks, published parameters of the encoder, of it with a variance, of the decoder
PUBLISHED = {
    "28x28": (ImageSpec(28, 28, 1), 64, 2, 116_128, 157_472, 116_065),
    "32x32": (ImageSpec(32, 32, 3), 64, 2, 154_336, 195_680, 154_147),
    "64x64": (ImageSpec(64, 64, 3), 64, 6, 319_584, 360_928, 278_179),
    "label_map": (ImageSpec(64, 64, 1, 19), 65, 2, 196_756, 239_396, 154_071),
}
BLOCK_64, BLOCK_65 = [(64, 0), (64, 0)], [(65, 0), (65, 0)]
# Channels and pixels an axis after every convolution; a block has two, which keep both (written as 0).
SHAPES = {
    "28x28": (
        [(32, 14), (64, 7), *BLOCK_64 * 2],
        [*BLOCK_64 * 2, (32, 14), (1, 28)],
    ),
    "32x32": (
        [(32, 16), (64, 8), (64, 8), *BLOCK_64 * 2],
        [*BLOCK_64 * 2, (64, 8), (32, 16), (3, 32)],
    ),
    "64x64": (
        [(32, 32), (64, 16), (64, 16), *BLOCK_64 * 6],
        [*BLOCK_64 * 5, (64, 16), (32, 32), (3, 64)],
    ),
    "label_map": (
        [(32, 32), (65, 16), (65, 8), *BLOCK_65 * 2],
        [*BLOCK_65, (65, 16), (32, 32), (20, 64)],
    ),
}


def published_model(network: str, covariance: str = "global") -> ImageModel:
    spec, dim, blocks, *_ = PUBLISHED[network]
    if spec.is_labels:
        quantizer = QuantizerConfig("vmf" if covariance == "global" else "gaussian", 64, dim, covariance)
        config = ImageModelConfig(network, blocks, "softplus", "vmf", quantizer=quantizer)
    else:
        config = ImageModelConfig(network, blocks, quantizer=QuantizerConfig("gaussian", 512, dim, covariance))
    return ImageModel(config, spec)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def block(dim: int) -> int:
    """3x3 and 1x1 convolutions, two normalisations."""
    return conv(dim, dim, 3) + conv(dim, dim, 1) + 4 * dim


@pytest.mark.parametrize("network", PUBLISHED)
def test_parameters_are_as_many_as_published(network):
    _, _, _, encoder, encoder_with_variance, decoder = PUBLISHED[network]
    model = published_model(network)
    assert (count(model.encoder), count(model.decoder)) == (encoder, decoder)
    for covariance in ("sample", "position", "diagonal"):
        assert count(published_model(network, covariance).encoder) == encoder_with_variance


def test_parameters_follow_from_the_layers():
    counted = {name: row[3:] for name, row in PUBLISHED.items()}
    # 28: no normalisation after the second convolution; 32: after all three; 64 and labels: not after the third
    strided = conv(1, 32, 4) + 2 * 32 + conv(32, 64, 4)
    up = conv(64, 32, 4) + 2 * 32 + conv(32, 1, 4)
    assert counted["28x28"] == (strided + 2 * block(64), strided + 3 * block(64), up + 2 * block(64))
    strided = conv(3, 32, 4) + 2 * 32 + conv(32, 64, 4) + 2 * 64 + conv(64, 64, 3)
    up = conv(64, 64, 3) + 2 * 64 + conv(64, 32, 4) + 2 * 32 + conv(32, 3, 4)
    assert counted["32x32"] == (
        strided + 2 * 64 + 2 * block(64),
        strided + 2 * 64 + 3 * block(64),
        up + 2 * block(64),
    )
    assert counted["64x64"] == (strided + 6 * block(64), strided + 7 * block(64), up + 5 * block(64))
    strided = conv(20, 32, 4) + 2 * 32 + conv(32, 65, 4) + 2 * 65 + conv(65, 65, 4)
    up = conv(65, 65, 4) + 2 * 65 + conv(65, 32, 4) + 2 * 32 + conv(32, 20, 4)
    assert counted["label_map"] == (strided + 2 * block(65), strided + 3 * block(65), up + block(65))


@pytest.mark.parametrize("network", PUBLISHED)
def test_every_convolution_gives_the_published_shape(network):
    model = published_model(network).eval()
    spec = model.spec
    found: list[tuple[int, ...]] = []
    for part in (model.encoder, model.decoder):
        for module in part.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape)))
    images = torch.zeros(2, *spec.shape, dtype=torch.uint8)
    codes = model.encode(images)
    reconstruction = model.decode(codes)
    expected, size = [], 0
    for part in SHAPES[network]:
        for channels, pixels in part:
            size = pixels or size
            expected.append((2, channels, size, size))
    assert found == expected
    assert codes.shape == (2, *model.latent_shape)
    assert reconstruction.shape == images.shape


def test_a_residual_block_is_what_the_docstring_says():
    torch.manual_seed(0)
    block_ = ResidualBlock(6).train()
    _, first, first_norm, _, second, second_norm = block_
    x = torch.randn(3, 6, 5, 4)
    hidden = torch.conv2d(x.clamp(min=0).double(), first.weight.double(), first.bias.double(), padding=1)

    def normalised(y: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
        mean, variance = y.mean(dim=(0, 2, 3), keepdim=True), y.var(dim=(0, 2, 3), keepdim=True, correction=0)
        scale, shift = (value.double()[:, None, None] for value in (norm.weight, norm.bias))
        return (y - mean) / (variance + 1e-5).sqrt() * scale + shift

    hidden = normalised(hidden, first_norm).clamp(min=0)
    hidden = normalised(torch.conv2d(hidden, second.weight.double(), second.bias.double()), second_norm)
    before = x.clone()
    torch.testing.assert_close(block_(x), (x + hidden).float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before), "the input is left alone"


def test_weights_start_as_published():
    torch.manual_seed(0)
    model = published_model("64x64", "diagonal")
    weights = torch.cat(
        [m.weight.flatten() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    )
    scales = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert weights.mean().abs() < 2e-4
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert scales.mean().item() == pytest.approx(1.0, abs=0.003)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)
