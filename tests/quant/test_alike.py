import pytest
from torch import nn

from flatbit.quant.alike import base_of, computes_as, narrowed

BASES = (nn.Linear, nn.Conv2d)


class Renamed(nn.Conv2d):
    def __init__(self, width):
        super().__init__(width, width, 3)
        self.width = width

    def extra_repr(self):
        return "renamed"

    def helper(self):
        return self.width


class Again(Renamed):
    pass


def subclass(base, **body):
    return type("Mine", (base,), body)


def test_the_nearest_base_counts():
    assert base_of(Again, BASES) is nn.Conv2d
    assert base_of(Again, (*BASES, Renamed)) is Renamed
    assert base_of(nn.Linear, BASES) is None


@pytest.mark.parametrize("kind", [Renamed, Again])
def test_what_only_renames_computes_as_its_base(kind):
    assert computes_as(kind, nn.Conv2d)


@pytest.mark.parametrize(
    "kind",
    [
        subclass(nn.Conv2d, forward=lambda self, x: x),
        subclass(nn.Conv2d, _conv_forward=lambda self, *_: None),
        subclass(nn.Conv2d, __call__=lambda self, x: x),
        subclass(nn.Conv2d, __getattr__=lambda self, name: None),
        subclass(nn.Conv2d, weight=property(lambda self: None)),
        subclass(nn.Conv2d, stride=(2, 2)),
        type("Second", (subclass(nn.Conv2d, forward=lambda self, x: x),), {}),
    ],
)
def test_what_changes_anything_that_the_forward_uses_does_not(kind):
    assert not computes_as(kind, nn.Conv2d)


def test_subclasses_of_torch_are_not_judged():
    assert not computes_as(nn.modules.linear.NonDynamicallyQuantizableLinear, nn.Linear)
    assert not computes_as(nn.LazyLinear, nn.Linear)


def test_the_linear_layer_of_timm_is_known():
    kind = type("Linear", (nn.Linear,), {"__module__": "timm.layers.linear", "forward": lambda self, x: x})
    assert computes_as(kind, nn.Linear)


def test_a_narrowed_class_has_the_quantized_forward_and_all_else_of_the_subclass():
    quantized = subclass(nn.Conv2d, forward=lambda self, x: "quantized")
    kind = narrowed(quantized, Renamed, lambda kind: kind(1))
    made = Renamed(1)
    made.__class__ = kind
    assert (made(None), made.helper(), kind.__name__) == ("quantized", 1, "QRenamed")
