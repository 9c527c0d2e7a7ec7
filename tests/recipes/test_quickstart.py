import pytest

import flatbit as fb
from flatbit.recipes.quickstart import quickstart

STAGES = {
    "float": None, "faq-w8a8": "float", "faq-w4a4": "float", "uniq-w4a4": "float", "uniq-w2a2": "float",
    "uniq-w1a1": "uniq-w2a2",
}  # fmt: skip


def test_the_stages_and_where_they_start():
    made = quickstart()
    assert {stage.name: stage.start for stage in made.stages} == STAGES
    assert (made.model, made.data) == ("preresnet8", "digits")


@pytest.mark.parametrize("stage", quickstart().stages[1:], ids=lambda stage: stage.name)
def test_a_stage_quantizes_what_its_name_says(stage):
    model = fb.models.build("preresnet8", in_channels=1)
    convention = fb.quantize_(model, stage.policy).convention
    bits = stage.name[-1]
    assert stage.name == f"{convention.policy}-w{bits}a{bits}"
    assert convention.inner == f"W{bits}/A{bits}"


def test_one_bit_is_adam_with_warmup_and_no_decay():
    one = quickstart(epochs=10).stages[-1]
    assert (one.optimizer, one.weight_decay, one.epochs) == ("adam", 0.0, 20)
    assert [one.lr * one.schedule(epoch, 20) for epoch in (0, 2.9, 3)] == pytest.approx([0.001, 0.001, 0.004])


def test_epochs_scale_the_run_and_are_recorded():
    made = quickstart(epochs=3)
    assert [stage.epochs for stage in made.stages] == [3, 2, 3, 3, 6, 6]
    assert made.parameters == {"epochs": 3}
