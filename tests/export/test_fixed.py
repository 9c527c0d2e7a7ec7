import pytest
import torch
from torch import nn

from flatbit.export.bounds import bounds
from flatbit.export.executor import integer_network
from flatbit.export.fixed import fixed_point
from flatbit.export.integer import Accumulate, Rescale, Round
from flatbit.export.lowering import lower
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy

from .cases import SHAPE, digits, network


@pytest.mark.parametrize("method", ["uniq", "lsq_plus", "faq"])
def test_nothing_leaves_its_bits_whatever_the_input(method):
    net = integer_network(network(method=method, first_width=4), SHAPE)
    operations = {op.name: op for op in net.program.operations}
    for x in (digits(8)[0], 1e6 * torch.randn(8, *SHAPE), -1e6 * torch.ones(2, *SHAPE)):
        results = {}
        net(x, results.__setitem__)
        for name, n in results.items():
            most = int(n.abs().max())
            op = operations[name]
            if name in net.program.fraction_bits:
                assert most < 2**31, name
            if isinstance(op, Accumulate):
                assert most < 2 ** (op.accumulator_bits - 1), name
            if name in net.program.codings:
                assert net.program.codings[name].low <= n.min()
                assert n.max() <= net.program.codings[name].high


def test_the_accumulators_bits_are_needed():
    net = integer_network(network(first_width=4), SHAPE)
    for op in net.program.operations:
        if isinstance(op, Accumulate):
            # All inputs at the end of their range, each with the sign of the weight that it meets: the worst case.
            worst = op.product.weight.abs().sum(1).flatten(1).sum(1).max() if op.product.geometry else None
            if worst is not None:
                assert int(worst) * max(-op.read.low, op.read.high) >= 2 ** (op.accumulator_bits - 2)


def test_sums_beyond_32_bits_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1 << 18, 2))
    quantize_(model, policy("lsq", weights=8, activations=8))
    calibrate_(model, [torch.randn(2, 1 << 18)])
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].weight_quantizer.step.fill_(0.001)
    with pytest.raises(ValueError, match=r"layer '1': its sums can reach .* which takes 33 bits"):
        integer_network(model, (1 << 18,))


def test_a_power_of_two_is_a_shift():
    program = fixed_point(lower(network(method="faq", first_width=4), SHAPE))
    rounds = [op for op in program.operations if isinstance(op, Round)]
    assert rounds
    assert all(op.multiplier & (op.multiplier - 1) == 0 for op in rounds)


def test_multipliers_hold_31_bits_and_streams_have_room():
    program = fixed_point(lower(network(first_width=4), SHAPE))
    bound = bounds(program.program)
    for op in program.operations:
        if isinstance(op, Rescale):
            assert int(op.multiplier.abs().max()) < 2**31
            assert int(op.multiplier.abs().max()) >= 2**20
    for name, f in program.fraction_bits.items():
        assert float(bound[name].size.max()) * 2.0**f < 2**30


def test_streams_that_are_added_share_their_scale():
    program = fixed_point(lower(network(first_width=4), SHAPE))
    sums = [op for op in program.operations if type(op).__name__ == "Add"]
    assert sums
    for op in sums:
        assert len({program.fraction_bits[name] for name in (op.name, *op.inputs)}) == 1
