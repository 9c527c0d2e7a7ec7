"""What tests of several recipes run on."""

import torch

from flatbit.data.batches import VOID
from flatbit.data.joint import JointAugment
from flatbit.data.memory import Images, MemoryData
from flatbit.engine import plan, run
from flatbit.recipes import RECIPES, Network

NARROW = Network(arguments={"first_width": 4})
SMALL = Network(model="preresnet8", arguments={"first_width": 4})
SCENES = {"network": Network(arguments={"width": 0.3}), "data": f"{__name__}:scenes"}


def made(name, given=None, *, network=Network(), data=None, **settings):  # noqa: B008
    """A registered recipe with settings: ``made("saq", {"sharpness.rho": 0.1}, weights=2)``."""
    return RECIPES.get(name).recipe(name, (given or {}) | settings, network, data)


def last(name, given=None, **settings):
    """Its last stage."""
    return made(name, given, **settings).stages[-1]


def by_name(name, given=None, **settings):
    """Its stages by name."""
    return {stage.name: stage for stage in made(name, given, **settings).stages}


def starts(recipe):
    """The stages in order, each with what it starts from."""
    return [(stage.name, str(stage.start)) for stage in recipe.stages]


def rates(stage):
    """The learning rate of each epoch."""
    return [stage.lr_at(epoch) for epoch in range(stage.epochs)]


def term(stage, kind):
    """The loss term of that class, None where the stage has none."""
    return next((term for term in stage.losses if isinstance(term, kind)), None)


def ran(recipe, folder, **settings):
    """A run of the recipe, as ``plan`` takes its settings."""
    return run(plan(recipe, **settings), folder)


def scenes():
    """Something to segment: a bright square on a dark ground, with a border of void."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(8, 32, 32, dtype=torch.uint8)
    for index, (top, left) in enumerate(torch.randint(2, 16, (8, 2), generator=generator).tolist()):
        masks[index, top : top + 12, left : left + 12] = 1
    images = (masks[:, None] * 180 + torch.randint(40, (8, 3, 32, 32), generator=generator)).to(torch.uint8)
    masks[:, 0] = VOID
    split = Images(images=images, labels=masks)
    return MemoryData(
        name="scenes", num_classes=2, train=split, test=split, mean=(0.5,) * 3, std=(0.2,) * 3,
        augment=JointAugment(), task="segmentation", class_names=("ground", "square"),
    )  # fmt: skip
