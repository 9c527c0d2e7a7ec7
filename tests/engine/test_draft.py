"""The draft of a run's model: layers and shapes without weights worth having."""

import warnings

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit import data as datasets
from flatbit.engine import Checkpoint
from flatbit.engine.checks import specs_of
from flatbit.engine.draft import Draft
from flatbit.engine.record import Totals
from flatbit.quant.table import has_quantized_layers

from .cases import FLOAT, POLICY, net, recipe, shades, small, still

HERE = __name__


def looks(num_classes, in_channels):
    """A builder that looks at its weights."""
    model = net(num_classes, in_channels)
    assert model[0].weight.std().item() > 0
    return model


def loads(num_classes, in_channels):
    """A builder that loads weights of its own; on the meta device PyTorch warns that nothing is copied."""
    model = net(num_classes, in_channels)
    model.load_state_dict(net(num_classes, in_channels).state_dict())
    with torch.device("cpu"):
        state = net(num_classes, in_channels).state_dict()
    model.load_state_dict(state)
    return model


def complains(num_classes, in_channels):
    """A builder that warns in earnest."""
    warnings.warn("this net is deprecated", UserWarning, stacklevel=1)
    return looks(num_classes, in_channels)


class Branches(nn.Module):
    """A net whose way depends on what it sees."""

    def __init__(self, num_classes):
        super().__init__()
        self.last = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.last(x.flatten(1) if bool(x.sum() > -1e9) else -x.flatten(1))


def branches(num_classes):
    return Branches(num_classes)


def drafted(model, checkpoint=None):
    return Draft.of(recipe(FLOAT, model=model), shades(), checkpoint)


def devices(model):
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("builder", ["tests.engine.cases:net", f"{HERE}:loads"])
def test_a_model_that_can_be_is_built_without_memory_for_its_weights(builder):
    made = drafted(builder)
    assert (made.built_on, made.notes, devices(made.model)) == ("meta", (), {"meta"})


@pytest.mark.parametrize("builder", ["looks", "branches"])
def test_a_model_that_needs_its_weights_is_built_on_the_cpu(builder):
    made = drafted(f"{HERE}:{builder}")
    assert (made.built_on, devices(made.model)) == ("cpu", {"cpu"})


def test_warnings_are_those_of_the_build_that_counts():
    with pytest.warns(UserWarning, match="this net is deprecated") as caught:
        assert drafted(f"{HERE}:complains").built_on == "cpu"
    assert len(caught) == 1


def test_grey_images_of_a_coloured_net_do_not_hinder_it():
    made = Draft.of(small(still(FLOAT), in_channels=3), datasets.load("digits"), None)
    assert made.built_on == "meta"


def test_every_network_of_ours_can_be_drafted():
    for name, data in (("fcdnn", "spirals"), ("resnet20", "digits"), ("mobilenet_v2_cifar", "digits")):
        made = Draft.of(recipe(FLOAT, model=name, data=data), datasets.load(data), None)
        assert made.built_on == "meta", name


def test_a_checkpoint_is_loaded_into_it_and_what_was_said_is_noted(tmp_path):
    source = net()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    made = drafted("tests.engine.cases:net", Checkpoint(path=tmp_path / "w.pth"))
    assert made.built_on == "cpu"
    assert torch.equal(made.model[0].weight, source[0].weight)
    assert "w.pth" in made.notes[0]


def test_no_random_number_is_drawn(tmp_path):
    torch.save(net().state_dict(), tmp_path / "w.pth")
    before = torch.get_rng_state()
    drafted("tests.engine.cases:net")
    drafted(f"{HERE}:looks")
    drafted(f"{HERE}:looks", Checkpoint(path=tmp_path / "w.pth"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("builder", ["tests.engine.cases:net", f"{HERE}:looks"])
@pytest.mark.parametrize(
    "policy", [None, POLICY, fb.policy("faq", weights=4), fb.policy("sqwa", weights=2), fb.policy("dq", weights=3)]
)
def test_counts_are_those_of_a_net_that_is_quantized(builder, policy):
    made, stage = drafted(builder), still(FLOAT, policy=policy)
    bits, totals = made.counted(specs_of(made.model, recipe(stage), stage), (1, 8, 8))
    real = net()
    if policy is not None:
        fb.quantize_(real, policy)
    assert totals == Totals.of(fb.cost(real, (1, 8, 8)))
    assert bits == fb.quant.convention.convention(real).inner
    assert not has_quantized_layers(made.model)  # a copy was counted
