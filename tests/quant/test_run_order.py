import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.quant.proof import QuantizationError


class Jumbled(nn.Module):
    """Defined in another order than it runs in."""

    def __init__(self):
        super().__init__()
        self.mid = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)
        self.stem = nn.Linear(5, 6)
        self.late = nn.Linear(6, 6)

    def forward(self, x):
        return self.head(torch.relu(self.late(torch.relu(self.mid(torch.relu(self.stem(x)))))))


BATCH = [(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(16, dtype=torch.long))]


def made(policy):
    model = Jumbled()
    fb.quantize_(model, policy)
    fb.calibrate_(model, BATCH, num_batches=1)
    return model


@pytest.mark.parametrize("name", ["uniq", "saq", "lsq"])
def test_bits_on_the_wrong_edges_are_an_error_and_names_mend_it(name):
    policy = fb.policy(name, weights=2, activations=2)
    with pytest.raises(
        QuantizationError, match=r"layer 'stem' runs first, .* took 'mid' .*policy\.first_last\(first='stem'\)"
    ):
        fb.evaluate(made(policy), BATCH)
    with pytest.raises(QuantizationError, match=r"layer 'head' runs last, .* took 'late'"):
        fb.evaluate(made(policy.first_last(first="stem")), BATCH)
    model = made(policy.first_last(first="stem", last="head"))
    metrics = fb.evaluate(model, BATCH)
    assert model.stem.spec.weight.bits == model.head.spec.weight.bits == 8
    assert model.mid.spec.weight.bits == 2
    assert metrics.convention.image == {"saq": "float"}.get(name, "8 bit")  # of the layer that reads it
    assert (metrics.convention.first[:2], metrics.convention.last[:2], metrics.convention.inner) == (
        "W8",
        "W8",
        "W2/A2",
    )


def test_edges_left_in_float_are_checked_too():
    with pytest.raises(QuantizationError, match="left in float what is defined first"):
        fb.evaluate(made(fb.policy("sqwa", weights=2)), BATCH)
    metrics = fb.evaluate(made(fb.policy("sqwa", weights=2).first_last(first="stem", last="head")), BATCH)
    assert (metrics.convention.first, metrics.convention.last) == ("float", "float")
    assert metrics.convention.inner == "W2/A32"


def test_where_all_layers_are_alike_order_does_not_matter():
    assert fb.evaluate(made(fb.policy("sqwa-all", weights=2)), BATCH).num_samples == 16


def test_names_of_no_layer_are_refused():
    policy = fb.policy("uniq", weights=2, activations=2).first_last(first="stam")
    with pytest.raises(ValueError, match="no weighted layer 'stam' to be the first or last: did you mean stem"):
        fb.quantize_(Jumbled(), policy)


def test_one_layer_is_first_and_a_float_model_has_no_edges():
    model = nn.Sequential(nn.Linear(5, 4))
    assert fb.evaluate(model, BATCH).num_samples == 16
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    fb.calibrate_(model, BATCH, num_batches=1)
    assert fb.evaluate(model, BATCH).num_samples == 16


def test_a_model_without_weighted_layers_has_nothing_wrong():
    assert fb.evaluate(nn.Identity(), [(torch.eye(3), torch.arange(3))]).top1 == 100.0


def test_branches_that_read_the_image_are_both_first():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.c(torch.relu(self.b(x) + self.a(x)))

    model = Branches()
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    fb.calibrate_(model, BATCH, num_batches=1)
    assert fb.evaluate(model, BATCH).num_samples == 16


class JumbledRelus(Jumbled):
    """The same with activations as modules, so that each layer reads another's output."""

    def __init__(self):
        super().__init__()
        self.relu_stem, self.relu_mid, self.relu_late = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.head(self.relu_late(self.late(self.relu_mid(self.mid(self.relu_stem(self.stem(x)))))))


def test_what_each_layer_reads_makes_no_difference_where_all_are_alike():
    model = JumbledRelus()
    fb.quantize_(model, fb.policy("hol-synthetic", weights=2, activations=4).first_last(first="stem"))
    fb.calibrate_(model, BATCH, num_batches=1)
    assert (model.late.spec.role, model.late.spec.producers) == ("last", ("relu_mid",))
    assert (model.head.spec.role, model.head.spec.producers) == ("inner", ("relu_late",))
    assert fb.evaluate(model, BATCH).num_samples == 16


class ReadsTheFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.mid, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.mid(torch.relu(x @ self.stem.weight.T))))


def test_a_first_layer_in_float_that_is_read_past_its_call_runs_first():
    model, policy = ReadsTheFirst(), fb.policy("uniq", weights=2, activations=2)
    fb.quantize_(model, policy.override("stem", weights=32, activations=32))
    fb.calibrate_(model, BATCH, num_batches=1)
    assert fb.evaluate(model, BATCH).num_samples == 16
