import pytest

from flatbit import plain
from flatbit.quant.spec import FLOAT_BITS, LayerSpec, TensorSpec

UNIQ = TensorSpec(method="uniq", bits=2)
FIXED = TensorSpec(method="fixed_point", bits=32, options={"exponent": -16})


def test_a_tensor_reads_as_a_sentence():
    assert str(UNIQ) == "2 bit uniq per tensor"
    assert str(TensorSpec(method="sqwa", bits=4, granularity="channel", options={"grid": "midrise"})) == (
        "4 bit sqwa per channel, grid=midrise"
    )


@pytest.mark.parametrize("slot", ["weight", "bias", "input", "output"])
def test_the_usual_slots_have_names_of_their_own(slot):
    spec = LayerSpec(policy="x", tensors={slot: UNIQ, "other": FIXED})
    assert getattr(spec, slot) is UNIQ
    assert {getattr(spec, name) for name in ("weight", "bias", "input", "output") if name != slot} == {None}
    with pytest.raises((AttributeError, TypeError)):  # the latter before Python 3.12
        setattr(spec, slot, None)


def test_a_layer_is_quantized_where_a_tensor_or_what_it_reads_is():
    assert not LayerSpec(policy="x")
    assert LayerSpec(policy="x", tensors={"up": UNIQ})
    assert LayerSpec(policy="x", input_bits=8)
    assert FLOAT_BITS == LayerSpec(policy="x").input_bits == 32


def test_one_tensor_is_changed_and_the_others_stay():
    spec = LayerSpec(policy="x", role="last", tensors={"weight": UNIQ, "bias": FIXED}, input_bits=4, producers=("a",))
    wider = TensorSpec(method="uniq", bits=8)
    assert spec.with_tensor("weight", wider) == LayerSpec(
        policy="x", role="last", tensors={"weight": wider, "bias": FIXED}, input_bits=4, producers=("a",)
    )
    assert spec.with_tensor("bias", None).tensors == {"weight": UNIQ}
    assert spec.with_tensor("input", UNIQ).input is UNIQ
    assert spec.with_tensor("absent", None) == spec
    assert spec.weight is UNIQ


def test_what_running_the_model_showed_is_not_stated():
    spec = LayerSpec(policy="x", tensors={"weight": UNIQ}, producers=("relu",))
    assert spec != LayerSpec(policy="x", tensors={"weight": UNIQ})
    assert spec.stated() == LayerSpec(policy="x", tensors={"weight": UNIQ})


def test_is_written_plainly_and_read_back():
    spec = LayerSpec(
        policy="x",
        tensors={"up": TensorSpec(method="lsq", bits=3, candidates=(2, 3)), "down": FIXED},
        producers=("relu1", "relu2"),
        averaged_from={"down": UNIQ},
    )
    again = plain.from_plain(LayerSpec, plain.to_plain(spec))
    assert again == spec
    assert again.tensors["up"].candidates == (2, 3)
