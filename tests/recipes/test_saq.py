import math

import pytest

import flatbit as fb
from flatbit.engine.run import run
from flatbit.recipes import RECIPES
from flatbit.recipes.saq import saq

TABLES_A_AND_B = [
    ("saq-preresnet20-cifar100", 2, 0.4), ("saq-preresnet20-cifar100", 3, 0.7), ("saq-preresnet20-cifar100", 4, 0.9),
    ("saq-mobilenet_v2-cifar100", 2, 0.5), ("saq-mobilenet_v2-cifar100", 3, 0.7), ("saq-mobilenet_v2-cifar100", 4, 0.9),
    ("saq-resnet18-imagenet", 2, 0.15), ("saq-resnet18-imagenet", 3, 0.15), ("saq-resnet18-imagenet", 4, 0.3),
    ("saq-mobilenet_v2-imagenet", 4, 0.3),
]  # fmt: skip


def last(name="saq", **settings):
    return RECIPES.get(name)(**settings).stages[-1]


def rates(stage):
    return [stage.lr * stage.schedule(epoch, stage.epochs) for epoch in range(stage.epochs)]


@pytest.mark.parametrize(("name", "bits", "rho"), TABLES_A_AND_B)
def test_the_papers_rho(name, bits, rho):
    sharpness = last(name, weights=bits, activations=bits).sharpness
    assert (sharpness.method, sharpness.rho) == ("saq", rho)


def test_cifar_as_the_paper_has_it():
    made = RECIPES.get("saq-preresnet20-cifar100")()
    first, stage = made.stages
    assert (made.data, first.epochs, stage.start, stage.epochs, stage.batch_size) == (
        "cifar100", 200, "float", 200, 128,
    )  # fmt: skip
    assert (stage.momentum, stage.nesterov, stage.weight_decay, stage.policy.name) == (0.9, False, 1e-4, "saq")
    assert rates(stage) == pytest.approx([1e-2] * 80 + [1e-3] * 40 + [1e-4] * 80)
    assert stage.sharpness.shard is None


@pytest.mark.parametrize(("net", "epochs", "decay"), [("resnet18", 90, 1e-4), ("mobilenet_v2", 150, 4e-5)])
def test_imagenet_as_the_paper_has_it(net, epochs, decay):
    stage = last(f"saq-{net}-imagenet")
    assert (stage.epochs, stage.batch_size, stage.weight_decay, stage.sharpness.shard) == (epochs, 512, decay, 128)
    assert rates(stage) == pytest.approx([0.01 * (1 + math.cos(math.pi * e / epochs)) for e in range(epochs)])


def test_bit_operations_of_table_1():
    made = RECIPES.get("saq-preresnet20-cifar100")(weights=3, activations=3)
    model = fb.models.build(made.model, **made.model_arguments, num_classes=100)
    fb.quantize_(model, made.stages[-1].policy)
    assert fb.cost(model, input_shape=(3, 32, 32)).bitops / 1e6 == pytest.approx(392.053, abs=0.001)


@pytest.mark.parametrize("method", ["sam", "asam", "saq", "asaq"])
def test_every_kind_of_sharpness_with_what_it_takes(method):
    stage = last(sharpness=method, rho=0.25, eta=0.02, perturb="weights_only", batchnorm="update", shard=64)
    made = stage.sharpness
    assert (made.method, made.rho, made.eta, made.perturb, made.batchnorm, made.shard) == (
        method, 0.25, 0.02, "weights_only", "update", 64,
    )  # fmt: skip


def test_plain_descent_and_nesterov():
    assert last(sharpness="none").sharpness is None
    assert last(nesterov=True).nesterov


def test_pact_in_saqs_convention():
    model = fb.models.build("preresnet20", variant="saq")
    convention = fb.quantize_(model, last(method="pact", sharpness="none").policy).convention
    assert (convention.policy, convention.last, convention.inner) == ("pact", "W8/A8", "W4/A4")
    conv = model.layers[0][0].conv2
    assert (conv.spec.weight.method, conv.spec.input.method, conv.spec.input.options) == (
        "dorefa",
        "pact",
        {"clip": 1.0},
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sharpness": "sam"}, "the paper prints no rho for sam of preresnet20 at 4 bits"),
        ({"model": "resnet56"}, "the paper prints no rho for saq of resnet56"),
        ({"weights": 8}, "only at 2, 3, 4: give rho="),
        ({"sharpness": "flat"}, "expected none or sam or asam or saq or asaq"),
        ({"schedule": "linear"}, "expected steps or cosine"),
        ({"method": "uniq"}, "expected saq or pact"),
    ],
)
def test_what_is_not_known_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        saq(**settings)


@pytest.mark.parametrize("settings", [{"sharpness": "asaq"}, {"sharpness": "sam", "shard": 16}, {"method": "pact"}])
def test_the_variants_run(settings, tmp_path):
    made = RECIPES.get("saq-preresnet8-digits")(model_arguments={"first_width": 4}, **settings)
    (stage,) = (stage for stage in run(made, tmp_path, smoke=True).record["recipe"]["stages"] if stage["policy"])
    told = {"sharpness": stage["sharpness"]["method"], "shard": stage["sharpness"]["shard"]}
    told["method"] = stage["policy"]["base"]["activation_method"]
    assert {key: told[key] for key in settings} == settings
