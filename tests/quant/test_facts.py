"""Facts of a quantizer: read once until their buffer changes, and left tensors where a number would bind a graph."""

import copy

import pytest
import torch

from flatbit.quant.facts import Facts
from flatbit.quant.quantizers.uniq import UniqActivation
from flatbit.quant.site import Site

from ..no_waits import as_on_a_device, no_waits


def test_a_fact_is_read_once_until_its_buffer_changes():
    quantizer = UniqActivation(2, Site(role="input", layer="fc"))
    assert quantizer.whole_bits() == 2
    with as_on_a_device():
        assert quantizer.whole_bits() == 2
    with no_waits():
        assert quantizer.whole_bits() == 2
    with as_on_a_device():
        quantizer.bits.fill_(4)
        assert quantizer.whole_bits() == 4
        quantizer.bits = torch.tensor(3.0)
        assert quantizer.whole_bits() == 3
    other = copy.deepcopy(quantizer)
    other.bits.fill_(5)
    assert (quantizer.whole_bits(), other.whole_bits()) == (3, 5)
    assert quantizer.is_signed() is False
    quantizer.signed.fill_(1)
    assert quantizer.is_signed() is True
    with torch.inference_mode(), as_on_a_device():
        quantizer.bits = torch.tensor(6.0)
        assert quantizer.whole_bits() == 6


def test_each_fact_is_known_by_its_name_its_buffer_and_its_version():
    facts, bits, signed = Facts(), torch.tensor(2.0), torch.tensor(1)
    with as_on_a_device():
        assert (facts.read("bits", bits), facts.read("signed", signed)) == (2.0, 1.0)
    with no_waits():
        assert (facts.read("bits", bits), facts.read("signed", signed)) == (2.0, 1.0)
    bits.fill_(4)
    with as_on_a_device():
        assert (facts.read("bits", bits), facts.read("signed", signed)) == (4.0, 1.0)
        twin = torch.tensor(5.0).fill_(5)  # of the version of the other
        assert twin._version == bits._version
        assert facts.read("bits", twin) == 5.0


def test_a_compiled_graph_gets_the_buffer_itself_and_serves_every_number():
    facts, graphs = Facts(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda held: facts.read("bits", held) * 2, backend=backend, fullgraph=True)
    assert [float(compiled(torch.tensor(bits))) for bits in (2.0, 3.0, 8.0)] == [4.0, 6.0, 16.0]
    assert len(graphs) == 1


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad, torch.func.functionalize])
def test_a_transform_gets_the_buffer_itself(transform):
    facts, found = Facts(), []

    def read(held):
        found.append(facts.read("bits", held) is held)
        return held.clone()

    transform(read)(torch.tensor([2.0, 3.0]) if transform is torch.func.vmap else torch.tensor(2.0))
    assert found == [True]


def test_on_the_meta_device_the_buffer_itself_is_given():
    held = torch.tensor(2.0, device="meta")
    assert Facts().read("bits", held) is held
