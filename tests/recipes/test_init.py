import inspect

import pytest
import torch

import flatbit as fb
from flatbit.data.batches import VOID
from flatbit.data.joint import JointAugment
from flatbit.data.memory import Images, MemoryData
from flatbit.engine.recipe import Recipe
from flatbit.engine.run import plain, read_run, run
from flatbit.recipes import RECIPES

SMALL = {
    "model": "preresnet8", "model_arguments": {"first_width": 4}, "data": "digits", "float_schedule": "digits",
    "rho": 0.1,
}  # fmt: skip
SCENES = {"model": "deeplab_mobilenet_v2", "model_arguments": {"width": 0.3}, "data": f"{__name__}:scenes"}


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


def smallest(name):
    """The recipe with the least that makes it small: a little network, on digits."""
    function = RECIPES.get(name)
    known = inspect.signature(function).parameters
    least = {"hol-deeplab-voc": SCENES, "hol-fcdnn-spirals": {"width": 8}}.get(name, SMALL)
    return function(**{key: value for key, value in least.items() if key in known})


def test_the_recipes_of_the_design_are_there():
    agreed = {
        "quickstart", "finetune", "float", "progressive", "crossed", "sqwa", "hol", "saq", "uniq", "faq",
        "sqwa-resnet20-cifar100", "sqwa-mobilenet_v2-cifar100", "sqwa-resnet18-imagenet",
        "hol-fcdnn-spirals", "hol-resnet20-cifar10", "hol-preresnet34-imagenet", "hol-deeplab-voc",
        "saq-preresnet20-cifar100", "saq-mobilenet_v2-cifar100", "saq-resnet18-imagenet", "saq-mobilenet_v2-imagenet",
        "uniq-preresnet32-cifar100", "uniq-preresnet18-imagenet", "uniq-preresnet34-imagenet",
        "uniq-mobilenet_v2-imagenet", "faq-resnet18-imagenet", "faq-resnet18-cifar10",
        *(f"{paper}-preresnet8-digits" for paper in ("sqwa", "hol", "saq", "uniq", "faq", "progressive", "crossed")),
    }  # fmt: skip
    assert agreed <= set(RECIPES.names())


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_smokes(name, tmp_path):
    recipe = smallest(name)
    done = run(recipe, tmp_path, smoke=True)
    assert [*done.record["stages"]] == [stage.name for stage in recipe.stages]
    assert read_run(tmp_path).record == plain(done.record)
    for stage in recipe.stages:
        policy = done.record["stages"][stage.name]["test"]["convention"]["policy"]
        if stage.policy is not None or stage.name != "average":
            assert policy == ("float" if stage.policy is None else stage.policy.name)


LARGE = ("resnet34", "resnet50", "resnet152")


@pytest.mark.parametrize("name", [n for n in RECIPES.names() if n != "finetune" and not any(big in n for big in LARGE)])
def test_a_recipes_own_network_takes_its_policies(name):
    recipe = RECIPES.get(name)()
    for stage in recipe.stages:
        if stage.policy is not None:
            model = fb.models.build(recipe.model, **recipe.model_arguments)
            assert fb.quantize_(model, stage.policy, strict=True).convention.policy == stage.policy.name


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_is_named_as_it_is_registered_and_says_what_it_does(name):
    assert isinstance(smallest(name), Recipe)
    assert smallest(name).name == name
    function = RECIPES.get(name)
    assert inspect.getdoc(getattr(function, "func", function))


def test_unknown_recipe_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown recipe 'quikstart': did you mean quickstart"):
        RECIPES.get("quikstart")
