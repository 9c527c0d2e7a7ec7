import pytest
import torch
from torch import nn

from flatbit import models
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy


@pytest.fixture
def images():
    """Four signed images of 8 x 8 pixels."""
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def net():
    """A small pre-activation ResNet for one-channel images, in eval mode."""
    return models.build("preresnet8", in_channels=1, first_width=4).eval()


@pytest.fixture
def small():
    """Convolution, BN, ReLU, convolution, ReLU, linear: in eval mode."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    ).eval()  # fmt: skip


@pytest.fixture
def quantized(images):
    """Quantize and calibrate a model: ``quantized(net, "uniq", 2, 2)``."""

    def make(model, name="uniq", weights=2, activations=2, **options):
        quantize_(model, policy(name, weights=weights, activations=activations, **options))
        calibrate_(model, [(images,)] * 3)
        return model

    return make
