import pytest

import flatbit as fb
from flatbit.engine import plan
from flatbit.reference import From
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.teacher import Distillation

from .cases import NARROW, by_name, made, ran, starts, term


def stages(given=None, **settings):
    return by_name("crossed", given, **settings)


def test_the_stages_and_where_they_start():
    assert starts(made("crossed")) == [
        ("float", "start"), ("quantized", "stage:float"), ("retrain", "stage:quantized"),
        ("average", "stage:retrain.average"), ("requantized", "stage:retrain.average"),
        ("fine-tuned", "stage:retrain.average"),
    ]  # fmt: skip


def test_each_part_is_where_it_belongs():
    found = stages()
    assert found["quantized"].policy.name == "uniq"
    assert found["quantized"].sharpness.method == "saq"
    assert found["retrain"].fixed_weight_steps
    assert found["retrain"].captures == (4, 10, 16, 22, 28, 34, 40)
    for name in ("quantized", "retrain", "fine-tuned"):
        assert term(found[name], Distillation).teacher == From.stage("float")
        assert term(found[name], CrossEntropy).weight == pytest.approx(0.1)


def test_each_part_can_be_left_out():
    assert stages(sharpness="none")["quantized"].sharpness is None
    assert stages(distillation="none")["quantized"].losses == (CrossEntropy(),)
    assert [*stages(averaging="none")] == ["float", "quantized"]
    assert stages(grid="saq")["quantized"].policy.base.method == "saq"
    assert stages(pretraining="none")["float"].epochs == 0


def test_a_teacher_from_elsewhere():
    settings = {"distillation.teacher": "file:runs/big", "distillation.temperature": 2.0, "distillation.weight": 1.0}
    (kd,) = stages(settings)["quantized"].losses  # at weight 1 the labels have none
    assert (kd.teacher, kd.temperature, kd.weight) == (From.file("runs/big"), 2.0, 1.0)


@pytest.mark.parametrize(("bits", "before"), [((1, 1), (2, 2)), ((1, 32), (2, 32))])
def test_it_can_begin_at_two_bits(bits, before):
    found = stages({"training.begin": "2-bit"}, weights=bits[0], activations=bits[1])
    assert (found["2-bit"].start, found["quantized"].start) == (From.stage("float"), From.stage("2-bit"))
    base = found["2-bit"].policy.base
    assert (base.weights, base.activations) == before


@pytest.mark.parametrize(("grid", "first", "last"), [("uniq", "W8/A8", "W8/A8"), ("sqwa", "float", "float")])
def test_edges_are_those_of_the_grids_policy(grid, first, last):
    model = fb.models.build("preresnet8")
    convention = fb.quantize_(model, stages(grid=grid)["quantized"].policy).convention
    assert (convention.first, convention.last, convention.inner) == (first, last, "W2/A2")


def test_an_unknown_grid_is_an_unknown_policy():
    with pytest.raises(ValueError, match="unknown policy 'unik': did you mean uniq"):
        made("crossed", grid="unik")


def test_a_grid_that_moves_has_no_average():
    with pytest.raises(ValueError, match=r"stage 'retrain': the step of weight of .* follows the weight .* captures"):
        plan(made("crossed", grid="faq", network=NARROW))
    assert [*stages(grid="faq", averaging="none")] == ["float", "quantized"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"averaging": "best"},
            "averaging='best': it is a part with settings of its own: averaging=on, averaging=none",
        ),
        ({"sharpness": "saq"}, "sharpness='saq': it is a part .* or sharpness.FIELD=VALUE \\(method, rho"),
        ({"sharpness.method": "best"}, "sharpness.method='best': expected sam or asam or saq or asaq"),
        ({"training.begin": "best"}, "training.begin='best': expected float or 2-bit"),
    ],
)
def test_a_misspelt_choice_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("crossed", settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training.begin": "2-bit"}, "training.begin=2-bit with W2/A2: it is the start of 1-bit nets"),
        ({"averaging": "none", "averaging.num_captures": 99}, "averaging=none .* averaging.num_captures cannot act"),
        ({"sharpness": "none", "sharpness.rho": 3}, "sharpness=none leaves that part out: sharpness.rho cannot act"),
        ({"distillation": "none", "distillation.temperature": 9}, "distillation.temperature cannot act"),
        ({"averaging.epochs": 41}, "averaging.epochs=41 cannot act: the stages are the same without it"),
    ],
)
def test_what_cannot_act_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("crossed", settings)


@pytest.mark.parametrize("settings", [{}, {"grid": "saq", "weights": 1, "activations": 1, "training.begin": "2-bit"}])
def test_a_run_keeps_its_steps_while_it_captures(settings, tmp_path):
    short = {
        "pretraining.epochs": 1, "training.epochs": 1, "averaging.epochs": 10, "averaging.num_captures": 2,
        "averaging.tune_epochs": 1,
    }  # fmt: skip
    recipe = made("crossed-preresnet8-digits", short | settings, network=NARROW)
    done = ran(recipe, tmp_path)
    bits = recipe.stages[-1].policy.base.weights
    inner = {name: entry.test.convention.inner for name, entry in done.record.stages.items()}
    assert inner["average"] == f"W{bits + 1}/A{bits}"
    assert inner["fine-tuned"] == f"W{bits}/A{bits}"
