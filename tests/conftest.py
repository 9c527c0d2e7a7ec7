import pytest
import torch
from torch import nn

from flatbit import models, plugins
from flatbit.data.memory import Images, MemoryData
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("compiles") is not None)  # what has a limit does the most first
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(autouse=True)
def _reproducible(monkeypatch):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monkeypatch.setattr("flatbit.plugins._loaded", dict(plugins._loaded))  # runs name every plug-in of their process


@pytest.fixture
def device():
    return "cuda"


@pytest.fixture
def blobs():
    """48 training and 20 test images of 3 classes, easy to tell apart; every channel and pixel at random."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randint(256, (3, 1, 4, 4), generator=generator)

    def split(n):
        labels = torch.arange(n) % 3
        noise = torch.randint(-40, 41, (n, 1, 4, 4), generator=generator)
        return Images(images=(centres[labels] + noise).clamp(0, 255).to(torch.uint8), labels=labels)

    return MemoryData(name="blobs", num_classes=3, train=split(48), test=split(20), mean=(0.5,), std=(0.25,))


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
