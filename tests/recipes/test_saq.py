import math

import pytest

import flatbit as fb
from flatbit.recipes import Network
from flatbit.reference import From
from flatbit.search.assignment_file import write_assignment
from flatbit.train.optimizers import SGD

from .cases import NARROW, last, made, ran, rates

TABLES_A_AND_B = [
    ("saq-preresnet20-cifar100", 2, 0.4), ("saq-preresnet20-cifar100", 3, 0.7), ("saq-preresnet20-cifar100", 4, 0.9),
    ("saq-mobilenet_v2-cifar100", 2, 0.5), ("saq-mobilenet_v2-cifar100", 3, 0.7), ("saq-mobilenet_v2-cifar100", 4, 0.9),
    ("saq-resnet18-imagenet", 2, 0.15), ("saq-resnet18-imagenet", 3, 0.15), ("saq-resnet18-imagenet", 4, 0.3),
    ("saq-mobilenet_v2-imagenet", 4, 0.3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bits", "rho"), TABLES_A_AND_B)
def test_the_papers_rho(name, bits, rho):
    sharpness = last(name, weights=bits, activations=bits).sharpness
    assert (sharpness.method, sharpness.rho) == ("saq", rho)


def test_rho_is_that_of_the_smaller_number_of_bits_and_can_be_given():
    assert last("saq", weights=2, activations=8).sharpness.rho == 0.4
    assert last("saq", weights=8, activations=3).sharpness.rho == 0.7
    assert last("saq", {"sharpness.rho": 0.05}, weights=8, activations=8).sharpness.rho == 0.05


def test_cifar_as_the_paper_has_it():
    recipe = made("saq-preresnet20-cifar100")
    first, stage = recipe.stages
    assert (recipe.data, first.epochs, stage.start, stage.epochs, stage.batch_size) == (
        "cifar100", 200, From.stage("float"), 200, 128,
    )  # fmt: skip
    assert stage.optimizer == SGD(momentum=0.9, nesterov=False)
    assert (stage.weight_decay, stage.policy.name) == (1e-4, "saq")
    assert rates(stage) == pytest.approx([1e-2] * 80 + [1e-3] * 40 + [1e-4] * 80)
    assert stage.sharpness.shard is None


@pytest.mark.parametrize(("net", "epochs", "decay"), [("resnet18", 90, 1e-4), ("mobilenet_v2", 150, 4e-5)])
def test_imagenet_as_the_paper_has_it(net, epochs, decay):
    stage = last(f"saq-{net}-imagenet")
    assert (stage.epochs, stage.batch_size, stage.weight_decay, stage.sharpness.shard) == (epochs, 512, decay, 128)
    assert rates(stage) == pytest.approx([0.01 * (1 + math.cos(math.pi * e / epochs)) for e in range(epochs)])


def test_bit_operations_of_table_1():
    recipe = made("saq-preresnet20-cifar100", weights=3, activations=3)
    model = fb.models.build(recipe.model, **recipe.model_arguments, num_classes=100)
    fb.quantize_(model, recipe.stages[-1].policy)
    assert fb.cost(model, input_shape=(3, 32, 32)).bitops / 1e6 == pytest.approx(392.053, abs=0.001)


@pytest.mark.parametrize(("method", "eta"), [("sam", None), ("asam", 0.02), ("saq", None), ("asaq", 0.02)])
def test_every_kind_of_sharpness_with_what_it_takes(method, eta):
    settings = {
        "sharpness.method": method, "sharpness.rho": 0.25, "sharpness.perturb": "weights_only",
        "sharpness.batchnorm": "update", "sharpness.shard": 64,
    } | ({} if eta is None else {"sharpness.eta": eta})  # fmt: skip
    found = last("saq", settings).sharpness
    assert (found.method, found.rho, found.eta, found.perturb, found.batchnorm, found.shard) == (
        method, 0.25, eta, "weights_only", "update", 64,
    )  # fmt: skip


def test_plain_descent_and_nesterov():
    assert last("saq", sharpness="none").sharpness is None
    assert last("saq", {"training.nesterov": True}).optimizer == SGD(nesterov=True)


def test_sharpness_on_is_the_papers():
    assert last("saq", sharpness="on") == last("saq")
    assert last("saq-resnet18-imagenet", sharpness="on").sharpness.shard == 128


@pytest.mark.parametrize("method", ["saq", "pact"])
def test_bits_of_a_file_are_samqs_nets(tmp_path, method):
    path = tmp_path / "assignment.toml"
    bits = {"layers.0.0.conv1": (5, 5), "layers.1.0.conv2": (2, 2), "layers.1.0.shortcut": (2, 2)}
    write_assignment(bits, path)
    stage = last("saq", {"assignment": str(path)}, method=method, weights=4, activations=4)
    model = fb.models.build("preresnet8", in_channels=1, first_width=4)
    fb.quantize_(model, stage.policy)
    found = fb.assignment(model)
    assert {name: found[name] for name in bits} == bits
    assert found["layers.0.0.conv2"] == (4, 4)
    assert found["fc"] == (8, 8)


def test_pact_in_saqs_convention():
    model = fb.models.build("preresnet20", variant="saq")
    convention = fb.quantize_(model, last("saq", method="pact", sharpness="none").policy).convention
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
        ({"sharpness.method": "sam"}, "lacks rho: say what it is .*with sharpness.method=saq at 2, 3, 4 bits"),
        ({"weights": 8, "activations": 8}, "of preresnet20 alone the paper prints sharpness.rho"),
        ({"sharpness": "flat"}, "sharpness='flat': it is a part with settings of its own"),
        ({"sharpness.method": "flat"}, "expected sam or asam or saq or asaq"),
        ({"training.schedule": "linear"}, "expected steps or cosine"),
        ({"method": "uniq"}, "expected saq or pact"),
        ({"sharpness": "none", "sharpness.rho": 3, "sharpness.shard": 4}, "sharpness.rho cannot act: leave it out too"),
        ({"sharpness.eta": 0.02}, "sharpness eta=0.02 cannot act: saq does not scale"),
    ],
)
def test_what_is_not_known_or_cannot_act_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("saq", settings)


def test_the_papers_rho_is_that_of_its_network_alone():
    with pytest.raises(ValueError, match=r"recipe 'saq': sharpness lacks rho.*of preresnet20 alone the paper prints"):
        made("saq", network=Network(model="resnet56"))
    assert last("saq", {"sharpness.rho": 0.3}, network=Network(model="resnet56")).sharpness.rho == 0.3


@pytest.mark.parametrize(
    "settings",
    [{"sharpness.method": "asaq"}, {"sharpness.method": "sam", "sharpness.shard": 16}, {"method": "pact"}],
)
def test_the_variants_run(settings, tmp_path):
    done = ran(made("saq-preresnet8-digits", settings, network=NARROW), tmp_path, smoke=True)
    (stage,) = (stage for stage in done.record.recipe.stages if stage.policy)
    told = {"sharpness.method": stage.sharpness.method, "sharpness.shard": stage.sharpness.shard}
    told["method"] = stage.policy.base.activation_method
    assert {key: told[key] for key in settings} == settings
    assert done.record.recipe.settings == settings
