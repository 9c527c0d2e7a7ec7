import copy
from itertools import islice

import pytest
import torch

from flatbit.data.sets.digits import load_digits
from flatbit.train.losses.labels import cross_entropy

from .cases import float_net, measured_space


@pytest.fixture(scope="package")
def learned():
    """The net after six epochs of digits, and 96 of its images in two batches."""
    model, data = float_net(), load_digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batches = data.train_batches(64, seed=0, augment=False)
    for epoch in range(6):
        for x, y in batches.epoch(epoch):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval(), list(islice(data.train_batches(48, seed=0, augment=False), 2))


@pytest.fixture
def trained(learned):
    """The net, its batches and its space."""
    model, batches = learned
    return copy.deepcopy(model), batches, measured_space()
