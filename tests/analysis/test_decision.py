from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.analysis.decision import decision_map
from flatbit.data.sets.spirals import region

DATA = fb.data.load("spirals")


class Oracle(nn.Module):
    """Answers with the region's class, or its opposite: inputs are coordinates times 2."""

    def __init__(self, flip=False):
        super().__init__()
        self.flip = flip
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        labels, _ = region(x.double().numpy() / 2)
        return nn.functional.one_hot(torch.from_numpy(labels ^ self.flip), 2).float()


def test_a_net_that_knows_the_regions_is_right_everywhere_and_its_opposite_nowhere():
    assert decision_map(Oracle(), DATA, points=61).accuracy == pytest.approx(100, abs=0.3)  # float32 at borders
    assert decision_map(Oracle(flip=True), DATA, points=61).accuracy == pytest.approx(0, abs=0.3)


def test_the_map_lies_as_the_plane_does():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        model.bias.zero_()
    answers = decision_map(model, DATA, extent=(-1, 1, -1, 1), points=4).answers
    assert answers.tolist() == [[0, 0, 1, 1]] * 4  # class 1 on the right
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
    assert decision_map(model, DATA, extent=(-1, 1, -1, 1), points=4).answers[:, 0].tolist() == [0, 0, 1, 1]


def test_its_accuracy_is_what_evaluate_says_of_the_test_grid():
    torch.manual_seed(0)
    model = fb.models.build("fcdnn", width=16, depth=3)
    found = decision_map(model, DATA)
    metrics = fb.evaluate(model, DATA.test_batches(20_000))
    assert abs(int((found.truth >= 0).sum()) - metrics.num_samples) < 5  # points on a border, rounded either way
    assert found.accuracy == pytest.approx(metrics.top1, abs=0.01)


def test_training_mode_is_left_as_it_was():
    model = fb.models.build("fcdnn", width=4, depth=3).train()
    decision_map(model, DATA, points=3)
    assert model.training


def test_what_is_no_plane_is_refused():
    with pytest.raises(
        ValueError, match=r"'digits' has inputs of shape \(1, 8, 8\): expected points \(2,\) of the data set"
    ):
        decision_map(Oracle(), fb.data.load("digits"))
    with pytest.raises(ValueError, match="'mine' has inputs"):  # its regions are unknown
        decision_map(Oracle(), replace(DATA, name="mine"))
    with pytest.raises(ValueError, match="points=1: expected 2 or more"):
        decision_map(Oracle(), DATA, points=1)


def test_outside_all_regions_there_is_no_truth():
    found = decision_map(Oracle(), DATA, extent=(-3, 3, -3, 3), points=7)
    assert found.truth[0, 0] == -1
    assert np.isin(found.truth, (-1, 0, 1)).all()
