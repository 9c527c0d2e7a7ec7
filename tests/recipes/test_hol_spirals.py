import pytest

import flatbit as fb
from flatbit.recipes import Network
from flatbit.train.optimizers import Adam

from .cases import last, made, ran, rates, starts

PLAIN, RESIDUAL = "hol-fcdnn-spirals", "hol-fcdnn_residual-spirals"


def narrow(**more):
    return Network(arguments={"width": 8} | more)


def built(recipe):
    return fb.models.build(recipe.model, **recipe.model_arguments)


@pytest.mark.parametrize("name", [PLAIN, RESIDUAL])
def test_weights_activations_and_both_from_the_float_net(name):
    recipe = made(name)
    assert (recipe.model, recipe.data) == ("fcdnn", "spirals")
    assert starts(recipe) == [
        ("float", "start"), ("hol-w2a32", "stage:float"), ("hol-w32a2", "stage:float"), ("hol-w2a2", "stage:float"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", [PLAIN, RESIDUAL])
def test_float_and_quantized_training(name):
    first, *quantized = made(name).stages
    assert (first.epochs, first.batch_size, first.optimizer, first.lr) == (300, 500, Adam(), 2e-3)
    for stage in quantized:
        assert (stage.epochs, stage.batch_size, stage.optimizer, stage.weight_decay) == (1000, 500, Adam(), 0.0)
        assert len(stage.looks()) == 10
        assert (rates(stage)[0], rates(stage)[500]) == (2e-3, pytest.approx(1e-3))


@pytest.mark.parametrize(("width", "depth", "weights"), [(200, 4, 80_800), (128, 6, 66_048)])
def test_width_and_depth_count_as_the_papers(width, depth, weights):
    model = built(made(PLAIN, network=Network(arguments={"width": width, "depth": depth})))
    assert sum(p.numel() for p in model.parameters() if p.ndim == 2) == weights


def test_one_of_width_and_depth_keeps_the_other():
    assert made(PLAIN, network=Network(arguments={"depth": 8})).model_arguments == {"width": 128, "depth": 8}
    changed = made(RESIDUAL, network=narrow()).model_arguments
    assert changed == {"width": 8, "depth": 4, "block": "residual"}


def test_all_matrices_are_quantized_and_the_ends_of_signals_are_not():
    recipe = made(PLAIN, network=narrow())
    model = built(recipe)
    convention = fb.quantize_(model, recipe.stages[-1].policy).convention
    assert convention.policy == "hol-synthetic"
    assert {layer.spec.weight.bits for layer in (model.first[0], model.hidden[0].linear, model.last)} == {2}
    assert model.first[0].spec.input is None
    assert model.last.spec.output is None


@pytest.mark.parametrize(("sums", "quantized"), [("float", False), ("quantized", True)])
def test_sums_are_quantized_again_where_asked(sums, quantized):
    recipe = made(RESIDUAL, network=narrow(), sums=sums)
    model = built(recipe)
    fb.quantize_(model, recipe.stages[-1].policy)
    spec = getattr(model.hidden[0].residual, "spec", None)
    assert bool(spec is not None and spec.output is not None) is quantized
    assert last(RESIDUAL).policy == last(RESIDUAL, sums="float").policy


@pytest.mark.parametrize("sums", ["float", "quantized"])
def test_a_plain_net_has_no_sums(tmp_path, sums):
    with pytest.raises(ValueError, match=r"no layer matches '\*\.residual'"):
        ran(made(PLAIN, network=narrow(), sums=sums), tmp_path, smoke=True)
    assert not (tmp_path / "run.json").exists()  # refused before anything was trained


def test_a_misspelt_choice_is_refused():
    with pytest.raises(ValueError, match="sums='halved': expected float or quantized"):
        made(RESIDUAL, sums="halved")


@pytest.mark.parametrize("sums", ["float", "quantized"])
def test_residual_nets_run_and_are_what_they_say(tmp_path, sums):
    recipe = made(RESIDUAL, network=narrow(depth=5), sums=sums)
    assert [*ran(recipe, tmp_path, smoke=True).record.stages] == [stage.name for stage in recipe.stages]
