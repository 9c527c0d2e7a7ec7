"""A file's layers with a model's: by name, by order, by numbers, or not at all."""

import torch

from flatbit.models.pairing import layers_of, paired, refusal, shapes_of


def layers(**sizes):
    return layers_of({f"{name}.weight": torch.zeros(size, 2) for name, size in sizes.items()})


def test_tensors_by_their_layer():
    found = layers_of({"a.b.weight": torch.zeros(2, 3), "a.b.bias": torch.zeros(2), "scale": torch.tensor(1.0)})
    assert {name: list(layer) for name, layer in found.items()} == {"a.b": ["weight", "bias"], "": ["scale"]}
    assert [shapes_of(layer) for layer in found.values()] == ["weight 2x3, bias 2", "scale 1"]


def test_by_name_wherever_all_names_are_the_models():
    assert paired(layers(b=3, a=3), layers(a=3, b=3), "f.pth") == ("name", {"a": "a", "b": "b"})


def test_by_order_where_a_file_keeps_one():
    assert paired(layers(x=3, y=3), layers(a=3, b=3), "f.pth") == ("order", {"a": "x", "b": "y"})
    assert paired(layers(x=3, y=3), layers(a=3, b=3), "f.safetensors") is None


def test_by_the_numbers_where_it_keeps_none():
    assert paired(layers(x10=3, x2=3), layers(l0=3, l1=3), "f.safetensors") == ("order", {"l0": "x2", "l1": "x10"})


def test_another_shape_or_number_of_layers_is_no_pairing():
    for theirs in (layers(x=3, y=4), layers(x=3), layers(x=3, y=3, z=3)):
        assert paired(theirs, layers(a=3, b=3), "f.pth") is None


def test_a_refusal_has_both_lists_from_where_they_differ():
    words = refusal(layers(x=3, y=4), layers(a=3, b=5), "f.pth", "Net")
    assert (
        "f.pth does not map onto Net: it has 2 layers with 14 numbers, the model 2 with 16; the first 1 agree" in words
    )
    assert "y weight 4x2 | b weight 5x2" in words
    assert "--as-built LAYER" in words
