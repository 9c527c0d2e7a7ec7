import pytest

import flatbit as fb
from flatbit.engine.run import run
from flatbit.recipes import RECIPES
from flatbit.recipes.crossed import crossed


def stages(**settings):
    return {stage.name: stage for stage in crossed(**settings).stages}


def test_the_stages_and_where_they_start():
    assert [(stage.name, stage.start) for stage in crossed().stages] == [
        ("float", None), ("quantized", "float"), ("retrain", "quantized"), ("average", "retrain.average"),
        ("requantized", "retrain.average"), ("fine-tuned", "retrain.average"),
    ]  # fmt: skip


def test_each_part_is_where_it_belongs():
    made = stages()
    assert made["quantized"].policy.name == "uniq"
    assert made["quantized"].sharpness.method == "saq"
    assert made["quantized"].distillation.teacher == "float"
    assert made["retrain"].fixed_weight_steps
    assert made["retrain"].captures == (4, 10, 16, 22, 28, 34, 40)


def test_each_part_can_be_left_out():
    assert stages(sharpness="none")["quantized"].sharpness is None
    assert stages(teacher="none")["quantized"].distillation is None
    assert [*stages(averaging="none")] == ["float", "quantized"]
    assert stages(grid="saq")["quantized"].policy.base.method == "saq"


def test_a_teacher_from_elsewhere():
    kd = stages(teacher="runs/big", temperature=2.0, teacher_weight=1.0)["quantized"].distillation
    assert (kd.teacher, kd.temperature, kd.weight) == ("runs/big", 2.0, 1.0)


@pytest.mark.parametrize(("bits", "before"), [((1, 1), (2, 2)), ((1, 32), (2, 32))])
def test_it_can_begin_at_two_bits(bits, before):
    made = stages(weights=bits[0], activations=bits[1], begin="2-bit")
    assert (made["2-bit"].start, made["quantized"].start) == ("float", "2-bit")
    base = made["2-bit"].policy.base
    assert (base.weights, base.activations) == before


@pytest.mark.parametrize(("grid", "first", "last"), [("uniq", "W8/A8", "W8/A8"), ("sqwa", "float", "float")])
def test_edges_are_those_of_the_grids_policy(grid, first, last):
    model = fb.models.build("preresnet8")
    convention = fb.quantize_(model, stages(grid=grid)["quantized"].policy).convention
    assert (convention.first, convention.last, convention.inner) == (first, last, "W2/A2")


def test_a_grid_that_moves_has_no_average():
    with pytest.raises(ValueError, match="grid='faq' with averaging='sqwa': captures must share one grid"):
        crossed(grid="faq")
    assert [*stages(grid="faq", averaging="none")] == ["float", "quantized"]


@pytest.mark.parametrize("setting", ["averaging", "begin", "sharpness"])
def test_a_misspelt_choice_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting}='best': expected"):
        crossed(**{setting: "best"})


@pytest.mark.parametrize("settings", [{}, {"grid": "saq", "weights": 1, "activations": 1, "begin": "2-bit"}])
def test_a_run_keeps_its_steps_while_it_captures(settings, tmp_path):
    made = RECIPES.get("crossed-preresnet8-digits")(
        model_arguments={"first_width": 4}, float_epochs=1, epochs=1, retrain_epochs=10, num_captures=2,
        tune_epochs=1, **settings,
    )  # fmt: skip
    done = run(made, tmp_path)
    bits = made.stages[-1].policy.base.weights
    inner = {name: entry["test"]["convention"]["inner"] for name, entry in done.record["stages"].items()}
    assert inner["average"] == f"W{bits + 1}/A{bits}"
    assert inner["fine-tuned"] == f"W{bits}/A{bits}"
