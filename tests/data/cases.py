"""Data whose values say which samples they are, for tests of several files."""

import io

import numpy as np
import torch
from PIL import Image

from flatbit.data.memory import Images, MemoryData
from flatbit.data.samples import Samples


class Numbered(Samples):
    """Sample i is filled with i; what is in ``bad`` cannot be read."""

    def __init__(self, n, bad=()):
        self.n, self.bad = n, bad

    def __len__(self):
        return self.n

    def name(self, index):
        return f"file {index}"

    def read(self, index, stream):
        if index in self.bad:
            raise OSError("damaged")
        noise = torch.rand(1, generator=stream) if stream else torch.zeros(1)
        return torch.full((1, 2, 2), float(index)) + noise, torch.tensor(index)


def numbered(train, test=5, **settings):
    """A set whose image i is filled with the value i, so that a batch says which samples it holds."""

    def split(n):
        pixels = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 4, 4)
        return Images(images=pixels.contiguous(), labels=torch.arange(n))

    facts = {"mean": (0.0,), "std": (1 / 255,)} | settings  # x is the pixel value itself
    return MemoryData(name="numbered", num_classes=256, train=split(train), test=split(test), **facts)


def strip(images):
    """Images (n, H, W, C) one below another, as the bytes of a lossless WebP image."""
    file = io.BytesIO()
    column = images.reshape(-1, *images.shape[2:])
    Image.fromarray(column[:, :, 0] if column.shape[2] == 1 else column).save(file, "WEBP", lossless=True)
    return file.getvalue()


def write_shard(path, images, labels, each=500, save=np.savez):
    """A shard of images (n, H, W, C), so many to a strip; its path."""
    strips = [strip(images[first : first + each]) for first in range(0, len(images), each)]
    content, offsets = np.frombuffer(b"".join(strips), np.uint8), np.cumsum([0, *map(len, strips)])
    save(path, webp=content, offsets=offsets, labels=np.asarray(labels, dtype=np.uint8))
    return path
