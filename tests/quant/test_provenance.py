from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from flatbit.quant.provenance import Provenance


@pytest.fixture
def net():
    return nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 2)})


def followed(provenance, operation, *read, running=()):
    out = {"cat": lambda *t: torch.cat(t), "add": torch.add, "clone": torch.clone}[operation](*read)
    provenance.follow(operation, read, out, running)
    return out


def test_views_and_what_is_made_of_a_weight_are_its_own(net):
    x = torch.zeros(4, 4)
    known = Provenance(net, [x])
    weight = net["a"].weight
    for tensor in (weight, weight.t(), weight[1:, :2], weight.data, followed(known, "clone", weight)):
        assert known.shares(tensor, ()) == {"a": 1}
    assert known.shares(followed(known, "add", weight, torch.ones(4, 4)), ()) == {"a": 1}
    assert known.shares(followed(known, "add", weight, x), ()) == {}
    assert known.shares(torch.ones(3), ()) == {}
    assert known.read == {"a"}


def test_pieces_of_a_concatenation_count_by_their_size(net):
    known = Provenance(net, [])
    both = followed(known, "cat", net["a"].weight, net["b"].weight)
    assert known.shares(both, ()) == {"a": Fraction(2, 3), "b": Fraction(1, 3)}
    again = followed(known, "cat", both, net["b"].weight)
    assert known.shares(again, ()) == {"a": Fraction(1, 2), "b": Fraction(1, 2)}


def test_what_depends_on_the_input_is_an_activation(net):
    x = {"x": torch.zeros(2, 4)}
    known = Provenance(net, x)
    assert known.is_activation(x["x"][0])
    assert not known.is_activation(net["a"].weight)
    assert known.is_activation(followed(known, "add", x["x"], 1))
    buffer = torch.zeros(2, 4)
    assert not known.is_activation(buffer)
    known.depend([buffer])
    assert known.is_activation(buffer.t())


def test_a_tied_weight_is_that_of_the_module_that_runs(net):
    net["c"] = nn.Linear(4, 4)
    net["c"].weight = net["a"].weight
    known = Provenance(net, [])
    assert known.shares(net["c"].weight, ()) == {"a": 1}
    assert known.shares(net["c"].weight, ["", "c"]) == {"c": 1}


def test_a_parametrization_belongs_to_its_layer(net):
    parametrizations.weight_norm(net["a"])
    known = Provenance(net, [])
    assert {name for p in net["a"].parametrizations.parameters() for name in known.shares(p, ())} == {"a"}
    assert known.shares(next(parametrizations.weight_norm(nn.Linear(2, 2)).parametrizations.parameters()), ()) == {}
    alone = parametrizations.weight_norm(nn.Linear(2, 2))
    assert Provenance(alone, []).shares(next(alone.parametrizations.parameters()), ()) == {"": 1}


def test_memory_that_was_freed_is_nobodys(net):
    known = Provenance(net, [])
    for _ in range(20):
        known.depend([torch.zeros(4, 4)])
        assert not known.is_activation(torch.zeros(4, 4))


def test_on_the_meta_device(net):
    net.to("meta")
    x = torch.zeros(2, 4, device="meta")
    known = Provenance(net, [x])
    assert known.shares(net["b"].weight.t(), ()) == {"b": 1}
    assert known.is_activation(x.t())


def test_a_sparse_tensor_has_no_memory_and_is_taken_for_an_activation(net):
    sparse = torch.eye(3).to_sparse()
    known = Provenance(net, [sparse])
    assert known.is_activation(sparse)
    assert known.shares(sparse, ()) == {}
