from dataclasses import replace

import pytest

from flatbit.export.executor import IntegerNetwork, integer_network
from flatbit.export.integer import Accumulate, Rescale, Round
from flatbit.export.verification import ExportError, too_many, verify

from .cases import DIGITS, SHAPE, network


def tampered(net, kind, change, *, at=-1):
    """The network with one operation changed."""
    operations = list(net.program.operations)
    i = [i for i, op in enumerate(operations) if isinstance(op, kind)][at]
    operations[i] = change(operations[i])
    return IntegerNetwork(replace(net.program, operations=tuple(operations)))


@pytest.fixture(scope="module")
def model():
    return network("preresnet8", first_width=4)


def test_what_was_trained_is_what_is_run(model):
    found = verify(model, integer_network(model, SHAPE), DIGITS.test_batches(100))
    assert found.num_images == 450
    assert found.changed == ()
    assert found.top1 == found.top1_model
    assert 0 < found.largest <= found.bound
    assert "450" in str(found)


@pytest.mark.parametrize(
    ("kind", "change", "at"),
    [
        (Rescale, lambda op: replace(op, multiplier=op.multiplier + op.multiplier // 200), -1),
        (Rescale, lambda op: replace(op, addend=op.addend + (1 << (op.shift + 26))), 1),
        (Round, lambda op: replace(op, addend=op.addend + (1 << op.shift) // 8), 1),
        (Round, lambda op: replace(op, high=op.high - 1), 0),
        (Accumulate, lambda op: replace(op, product=replace(op.product, weight=op.product.weight + 1)), 2),
    ],
)
def test_a_changed_number_is_found(model, kind, change, at):
    with pytest.raises(ExportError, match=r"layer '|a logit differs"):
        verify(model, tampered(integer_network(model, SHAPE), kind, change, at=at), DIGITS.test_batches(100))


def test_every_layer_of_an_image_with_ties_is_checked_too():
    """At 8 bits most images have a tie somewhere: what comes after it is held to the model's own codes."""
    model = network("resnet20", "lsq", 8, 8, width=0.5)
    batches = list(DIGITS.test_batches(100))[:1]
    net = integer_network(model, SHAPE)
    assert verify(model, net, batches, most_changed=1.0).tied > 0
    change = lambda op: replace(op, multiplier=op.multiplier + op.multiplier // 20)  # noqa: E731
    for at in (-1, -3):
        with pytest.raises(ExportError):
            verify(model, tampered(net, Rescale, change, at=at), batches, most_changed=1.0)


def test_a_tie_lies_between_the_two_codes(model):
    """9.5 steps lies half way too, but not between 6 and 7."""
    net = integer_network(model, SHAPE)
    change = lambda op: replace(op, addend=op.addend + (1 << op.shift))  # noqa: E731
    with pytest.raises(ExportError, match="steps from the tie between the two"):
        verify(model, tampered(net, Round, change, at=0), DIGITS.test_batches(100))


def test_codes_two_apart_are_no_tie(model):
    change = lambda op: replace(op, multiplier=2 * op.multiplier)  # noqa: E731
    with pytest.raises(ExportError, match=r"codes differ from the model's, by up to [2-9]"):
        verify(model, tampered(integer_network(model, SHAPE), Round, change, at=0), DIGITS.test_batches(100))


def test_how_many_classes_may_change_is_said():
    assert not too_many(1, 100)
    assert too_many(2, 100)
    assert not too_many(2, 100, most_changed=0.02)
    assert too_many(1, 100, most_changed=0)
    assert not too_many(0, 100, most_changed=0)


def test_what_the_model_says_of_its_input_is_not_hidden(model):
    x, y = next(iter(DIGITS.test_batches(2)))
    with pytest.raises(RuntimeError, match="expected input"):
        verify(model, integer_network(model, SHAPE), [(x.repeat(1, 3, 1, 1), y)])


def test_no_images_are_refused(model):
    with pytest.raises(ValueError, match="no images"):
        verify(model, integer_network(model, SHAPE), [])
