import pytest
import torch

from flatbit.data.memory import Images, MemoryData


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
