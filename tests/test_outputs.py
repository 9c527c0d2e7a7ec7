import re
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flatbit.outputs import logits_of

LOGITS, OTHER = torch.zeros(2, 3), torch.ones(2, 8)
Inception = namedtuple("Inception", "logits aux_logits")


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"out": LOGITS},
        {"out": LOGITS, "aux": OTHER},
        OrderedDict(loss=OTHER, logits=LOGITS),
        OrderedDict(prediction=LOGITS, hidden=None),
        {"out": OTHER, "logits": LOGITS},
        (LOGITS,),
        [LOGITS],
        (LOGITS, None),
        Inception(LOGITS, OTHER),
        SimpleNamespace(hidden=OTHER, logits=LOGITS),
        Slotted(LOGITS),
    ],
    ids=lambda output: type(output).__name__,
)
def test_plain_outputs_give_their_logits(output):
    assert logits_of(output, "Net") is LOGITS


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ((LOGITS, OTHER), "Net returns a tuple of 0: tensor (2, 3), 1: tensor (2, 8), and which tensor is the logits"),
        ({"a": LOGITS, "b": OTHER}, "If it is output['a'], say so"),
        ({"boxes": [LOGITS], "scores": OTHER}, "If it is output['scores'], say so"),
        (SimpleNamespace(a=LOGITS, b=OTHER), "forward returns model(x).a"),
        (None, "Net returns a NoneType, which holds no tensor: return the logits"),
        ({"logits": 3}, "Net returns a dict of 'logits': int, which holds no tensor"),
        ([[LOGITS], [OTHER]], "Net returns a list of 0: list, 1: list, which holds no tensor"),
    ],
)
def test_others_are_named_with_what_to_write(output, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        logits_of(output, "Net")


@pytest.mark.parametrize(
    "output", [(LOGITS, OTHER), {"a": LOGITS, "b": OTHER}, SimpleNamespace(a=LOGITS, b=OTHER)], ids=str
)
def test_the_hook_that_the_error_names_works(output):
    class Net(nn.Module):
        def forward(self, x):
            return output

    model = Net()
    with pytest.raises(ValueError, match="say so") as caught:
        logits_of(model(OTHER), "Net")
    [line] = re.findall(r"say so: (model.*\)), or wrap", str(caught.value))
    eval(line, {"model": model})  # what a user would paste
    assert logits_of(model(OTHER), "Net") is LOGITS
