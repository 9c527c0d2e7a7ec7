import copy

import pytest
import torch
from torch import nn

from flatbit.export.executor import integer_network
from flatbit.export.lowering import lower
from flatbit.export.program import Affine, Product, Quantize
from flatbit.export.verification import verify

from .cases import SHAPE, UNIQ, answering, digits, labelled, network, settled


def test_codes_that_are_added_and_pooled_become_streams():
    model = network("resnet20", "faq", 4, 4, width=0.25)  # ReLU outputs are quantized, sums read codes
    x, _ = digits()
    found = verify(model, integer_network(model, SHAPE), labelled(x, model))
    assert found.largest <= found.bound


def test_norms_and_biases_become_one_affine_map():
    program = lower(network(first_width=4), SHAPE)
    readers = program.readers()
    for op in program:
        if isinstance(op, Product):
            assert [type(reader) for reader in readers[op.name]] == [Affine]
        if isinstance(op, Affine) and op.inputs[0] in {o.name for o in program if isinstance(o, Affine)}:
            assert len(readers[op.inputs[0]]) > 1  # a shortcut reads it too


def test_looking_leaves_the_model_as_it_is():
    model = network(first_width=4).train()
    before = copy.deepcopy(model.state_dict())
    integer_network(model, SHAPE)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_grids_reach_as_far_as_their_quantizers():
    model = network(method="dq", first_width=4)
    for op in lower(model, SHAPE):
        if isinstance(op, Quantize):
            quantizer = model.get_submodule(op.quantizer)
            far = quantizer(torch.tensor([-1e9, 1e9])).double()
            assert torch.equal(far, op.grid.value(torch.tensor([op.grid.low, op.grid.high])).double())


def test_a_graph_that_depends_on_data_is_refused():
    model = answering(lambda m, x: m.linear((m.conv(x) if x.sum() > 0 else -m.conv(x)).flatten(1)))
    with pytest.raises(ValueError, match="forward depends on data"):
        lower(model, SHAPE)


@pytest.mark.parametrize("method", ["hol", "saq", "pact"])
def test_integers_refuse_float_operands_by_layer(method):
    with pytest.raises(ValueError, match=r"layer 'conv1': its (input|weight) is float.*first_last_bits=8"):
        integer_network(network(method=method, first_width=4), SHAPE)


def test_other_padding_and_modules_are_refused_by_layer():
    model = settled(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten()), UNIQ)
    with pytest.raises(ValueError, match="layer '0': padding_mode='reflect'"):
        lower(model, SHAPE)
    model = settled(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(144, 2)), UNIQ)
    with pytest.raises(ValueError, match=r"layer '1': .*Softplus has no exported form"):
        lower(model, SHAPE)
