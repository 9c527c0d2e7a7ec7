import pytest
import torch

from flatbit.search.measures.noise import noise_to_signal
from flatbit.search.sensitivity import noise_share

from ..cases import probe_of


def test_noise_is_that_of_weights_and_of_what_the_layer_reads(trained):
    model, batches, choices = trained
    probe = probe_of(model, batches)
    choice = choices.choices[0]
    alone = probe.alone(choice, 2)
    layer = alone[3]
    with torch.no_grad():
        x = alone[:3](batches[0][0])
        expected = noise_share(layer.weight, layer.quantized_weight()) + noise_share(x, layer.input_quantizer(x))
    assert noise_to_signal(probe, choice, 2) == pytest.approx(expected, rel=1e-5)
