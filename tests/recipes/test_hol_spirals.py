import pytest

import flatbit as fb
from flatbit.engine.run import run
from flatbit.recipes.hol_spirals import hol_spirals


def rates(stage):
    return [stage.lr * stage.schedule(epoch, stage.epochs) for epoch in range(stage.epochs)]


def test_weights_activations_and_both_from_the_float_net():
    made = hol_spirals()
    assert (made.model, made.data) == ("fcdnn", "spirals")
    assert [(stage.name, stage.start) for stage in made.stages] == [
        ("float", None), ("hol-w2a32", "float"), ("hol-w32a2", "float"), ("hol-w2a2", "float"),
    ]  # fmt: skip


def test_float_and_quantized_training():
    first, *quantized = hol_spirals().stages
    assert (first.epochs, first.batch_size, first.optimizer, first.lr) == (300, 500, "adam", 2e-3)
    for stage in quantized:
        assert (stage.epochs, stage.batch_size, stage.optimizer, stage.weight_decay) == (100, 500, "adam", 0.0)
        assert (rates(stage)[0], rates(stage)[50]) == (2e-3, pytest.approx(1e-3))


@pytest.mark.parametrize(("width", "depth", "weights"), [(200, 4, 80_800), (128, 6, 66_048)])
def test_width_and_depth_count_as_the_papers(width, depth, weights):
    made = hol_spirals(width=width, depth=depth)
    model = fb.models.build(made.model, **made.model_arguments)
    assert sum(p.numel() for p in model.parameters() if p.ndim == 2) == weights


def test_all_matrices_are_quantized_and_the_ends_of_signals_are_not():
    made = hol_spirals(width=8)
    model = fb.models.build(made.model, **made.model_arguments)
    convention = fb.quantize_(model, made.stages[-1].policy).convention
    assert convention.policy == "hol-synthetic"
    assert {layer.spec.weight.bits for layer in (model.first[0], model.hidden[0].linear, model.last)} == {2}
    assert model.first[0].spec.input is None
    assert model.last.spec.output is None


@pytest.mark.parametrize(("residual", "quantized"), [("float", False), ("quantized", True)])
def test_sums_are_quantized_again_where_asked(residual, quantized):
    made = hol_spirals(width=8, block="residual", residual=residual)
    model = fb.models.build(made.model, **made.model_arguments)
    fb.quantize_(model, made.stages[-1].policy)
    spec = getattr(model.hidden[0].residual, "spec", None)
    assert bool(spec is not None and spec.output is not None) is quantized


def test_a_plain_net_has_no_sums():
    with pytest.raises(ValueError, match="a plain net has no sums: block=residual"):
        hol_spirals(residual="quantized")


@pytest.mark.parametrize("residual", ["float", "quantized"])
def test_residual_nets_run_and_are_what_they_say(tmp_path, residual):
    made = hol_spirals(width=8, depth=5, block="residual", residual=residual)
    assert [*run(made, tmp_path, smoke=True).record["stages"]] == [stage.name for stage in made.stages]
