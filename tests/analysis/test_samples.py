import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatbit as fb
from flatbit.analysis.samples import BATCH, sample, score


def labels(batches):
    return torch.cat([y for _, y in batches]).tolist()


def test_training_samples_are_so_many_not_augmented_and_the_same_again():
    data = fb.data.load("digits")
    found = sample(data, "train", 450)
    assert [len(y) for _, y in found] == [BATCH, BATCH, 50]
    assert labels(found) == labels(sample(data, "train", 450))
    x, _ = next(iter(data.train_batches(BATCH, seed=0, augment=False)))
    assert torch.equal(found[0][0], x)


def test_fewer_than_asked_are_all_in_whole_batches(blobs):
    assert sum(len(y) for _, y in sample(blobs, "train", 2000)) == 48
    assert sum(len(y) for _, y in sample(blobs, "train", 7)) == 7


def test_all_test_samples_come_in_order_and_a_part_of_them_at_random():
    """The first of a sorted set would be of a few classes."""
    data = fb.data.load("digits")
    assert labels(sample(data, "test", 2000)) == labels(data.test_batches())
    part = labels(sample(data, "test", 200))
    assert len(part) == 200
    assert part == labels(data.swapped().train_batches(200, seed=0, augment=False))[:200]


@pytest.mark.parametrize("count", [0, -1])
def test_none_asked_for(blobs, count):
    with pytest.raises(ValueError, match=f"num_images={count}: expected 1 or more"):
        sample(blobs, "train", count)


def test_the_score_is_loss_and_accuracy_in_eval_mode():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9)).train()
    x, y = torch.randn(11, 3), torch.arange(11) % 4
    found = score(net, [(x[:8], y[:8]), (x[8:], y[8:])])
    logits = net[0](x)
    assert found.loss == pytest.approx(F.cross_entropy(logits, y).item())
    assert found.accuracy == pytest.approx(100 * (logits.argmax(1) == y).double().mean().item())
    assert net.training
    assert net[1].training


def test_a_loss_that_is_not_finite_is_told():
    net = nn.Linear(1, 2)
    nn.init.constant_(net.weight, float("inf"))
    assert not torch.tensor(score(net, [(torch.ones(1, 1), torch.tensor([0]))]).loss).isfinite()
