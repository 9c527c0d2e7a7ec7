import pytest

import flatbit as fb
from flatbit.recipes import Network
from flatbit.search.assignment_file import read_assignment, write_assignment
from flatbit.train.losses.cost import CostPenalty
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.optimizers import Adam

from .cases import last, made, ran, rates, starts, term

TINY = Network(model="preresnet8", arguments={"variant": "saq", "first_width": 4})


def test_steps_learn_from_the_labels_and_the_excess_alone():
    recipe = made("dq-preresnet20-cifar100", weights=3, activations=5)
    assert starts(recipe) == [("float", "start"), ("dq", "stage:float")]
    stage = recipe.stages[-1]
    assert [type(each) for each in stage.losses] == [CrossEntropy, CostPenalty]
    assert (stage.policy.base.weights, stage.policy.base.activations, stage.optimizer) == (3, 5, Adam())
    assert (stage.policy.base.method, rates(stage)[0], stage.lr_at(stage.epochs)) == ("dq", 0.01, pytest.approx(0))


@pytest.mark.parametrize(("mbitops", "weight"), [(674.644, 2.0), (5.0, 0.5)])
def test_the_weight_counts_the_excess_as_a_share_of_the_budget(mbitops, weight):
    penalty = term(last("dq-preresnet20-digits", {"penalty.mbitops": mbitops, "penalty.weight": weight}), CostPenalty)
    assert penalty.target_mbitops == mbitops
    doubled = penalty.weight * (2 * mbitops - mbitops) ** 2
    assert doubled == pytest.approx(weight)


@pytest.mark.parametrize(("name", "bits"), [("dq-preresnet20-cifar100", 4), ("dq-mobilenet_v2-cifar100", 4),
                                            ("dq-preresnet20-digits", 4)])  # fmt: skip
def test_the_budget_is_the_cost_of_the_uniform_net_with_saqs_edges(name, bits):
    recipe = made(name)
    shape, classes = ((1, 8, 8), 10) if recipe.data == "digits" else ((3, 32, 32), 100)
    model = fb.models.build(recipe.model, **recipe.model_arguments, num_classes=classes, in_channels=shape[0])
    fb.quantize_(model, fb.policy("saq", weights=bits, activations=bits))
    assert term(recipe.stages[-1], CostPenalty).target_mbitops == pytest.approx(
        fb.cost(model, shape).bitops / 1e6, abs=5e-4
    )


@pytest.mark.parametrize("setting", ["penalty.mbitops", "penalty.weight"])
def test_a_penalty_that_cannot_act_is_refused(setting):
    with pytest.raises(ValueError, match=r"=0: expected a positive number|=0\.0: expected a positive number"):
        made("dq-preresnet20-digits", {setting: 0})


def test_its_bits_are_an_assignment_that_other_recipes_take(tmp_path):
    """Digits, a net of width 4, at half of what its uniform start costs."""
    settings = {"training.epochs": 10, "training.lr": 0.01, "pretraining.epochs": 2}
    start = made("dq-preresnet20-digits", settings, network=TINY).stages[-1]
    model = fb.models.build("preresnet8", variant="saq", in_channels=1, first_width=4)
    fb.quantize_(model, start.policy)
    budget = fb.cost(model, (1, 8, 8)).bitops / 2e6
    done = ran(made("dq-preresnet20-digits", settings | {"penalty.mbitops": budget}, network=TINY), tmp_path / "dq")
    learned = fb.load(done.folder / "model.safetensors")
    bits, spent = fb.assignment(learned), fb.cost(learned, (1, 8, 8)).bitops
    assert len({*bits.values()}) > 2
    assert spent == done.record.stages["dq"].cost.bitops < 1.2e6 * budget

    path = tmp_path / "assignment.toml"
    write_assignment(bits, path)
    assert read_assignment(path) == bits
    given = {"layers.assignment": str(path), "training.epochs": 0}
    policy = made("finetune", given, policy="dq", weights=4, activations=4).stages[-1].policy
    other = fb.models.build("preresnet8", variant="saq", in_channels=1, first_width=4)
    fb.quantize_(other, policy)
    assert fb.assignment(other) == bits
    assert fb.cost(other, (1, 8, 8)).bitops == spent
