import pytest
import torch

from flatbit.search.measures.rise import rise_of_loss
from flatbit.train.losses.labels import cross_entropy

from ..cases import probe_of


def test_the_rise_of_the_loss_is_that_of_the_quantized_net(trained):
    model, batches, choices = trained
    probe = probe_of(model, batches)
    found = rise_of_loss(probe, choices.choices[1], 2)
    whole = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

    def loss(net):
        with torch.no_grad():
            return float(cross_entropy(net(whole[0]), whole[1]))

    assert found == pytest.approx(loss(probe.alone(choices.choices[1], 2)) - loss(probe.model), abs=1e-5)
    assert "loss" in probe.kept
