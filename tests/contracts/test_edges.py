"""The deployable convention, over every policy that is registered: each product has integer operands."""

import pytest
import torch

from flatbit import models
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convention import convention
from flatbit.quant.convert import quantize_
from flatbit.quant.policy import POLICIES
from flatbit.quant.presets import policy, preset, preset_names
from flatbit.quant.proof import prove
from flatbit.quant.quantizers import METHODS
from flatbit.quant.spec import FLOAT_BITS
from flatbit.quant.table import bits_of, quantizer_of, weighted_layers

NETS = {
    "preresnet20": ({"in_channels": 1, "first_width": 4, "num_classes": 4}, (8, 1, 8, 8)),
    "resnet20": ({"in_channels": 1, "first_width": 4, "num_classes": 4}, (8, 1, 8, 8)),
    "fcdnn": ({"width": 8, "depth": 4}, (8, 2)),
}


def own_methods(name):
    """The methods of weights and activations that a policy has of its own; None where it has none."""
    if name not in POLICIES.names():
        method = METHODS.get(name)
        return method.weights and name, method.activations and name
    base = preset(name)(4, 4).base
    return (
        base.method if METHODS.get(base.method).weights else None,
        base.activation_method if METHODS.get(base.activation_method).activations else None,
    )


def deployable(name):
    """The policy at the fewest bits that its methods have; UNIQ's activations where it has none."""
    weights, activations = own_methods(name)
    assert weights
    fewest = {
        "weights": min(METHODS.get(weights).weights.supported_bits),
        "activations": min(METHODS.get(activations).activations.supported_bits) if activations else 2,
    }
    if name.startswith("hol"):
        fewest["activations"] = 2  # its residual tensors are signed, which PACT takes from 2 bits up
    more = {} if activations else {"activation_method": "uniq"}
    return policy(name, **fewest, **more, first_last_bits=8, image_bits=8)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", preset_names())
def test_every_product_has_integer_operands(name, net):
    arguments, shape = NETS[net]
    relu = {} if name != "xnor" or net == "fcdnn" else {"activation": "hardtanh"}
    if name == "xnor" and net == "fcdnn":
        pytest.skip("fcdnn has ReLUs alone, whose signs are constant: xnor refuses them")
    model = models.build(net, **arguments, **relu)
    quantize_(model, deployable(name))
    batches = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    calibrate_(model, batches)
    prove(model.eval(), batches[0])
    layers = list(weighted_layers(model))
    edges = {"first": layers[0][1], "last": layers[-1][1]}
    for _, layer in layers:
        assert max(bits_of(layer)) <= 8
        assert quantizer_of(layer, "input") is not None or layer.spec.producers
    for layer in edges.values():
        assert layer.spec.weight.bits == layer.spec.input.bits == 8
    assert convention(model).integer_products
    assert "every product of integers" in str(convention(model))


@pytest.mark.parametrize("name", preset_names())
def test_what_is_float_in_the_whole_policy_stays_float(name):
    weights, _ = own_methods(name)
    bits = min(METHODS.get(weights).weights.supported_bits)
    specs = policy(name, weights=bits, first_last_bits=8).resolve(models.build("preresnet8", in_channels=1))
    assert all(spec.input is None and spec.output is None for spec in specs.values())
    assert specs["conv1"].weight.bits == specs["fc"].weight.bits == 8
    with pytest.raises(ValueError, match="image_bits=8 cannot act, for activations are float"):
        policy(name, weights=bits, image_bits=8)
    assert FLOAT_BITS not in [spec.weight.bits for spec in specs.values() if spec.weight]
