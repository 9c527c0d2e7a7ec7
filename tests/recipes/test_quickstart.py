import pytest

import flatbit as fb
from flatbit.train.optimizers import Adam

from .cases import last, made, starts

STAGES = [
    ("float", "start"), ("faq-w8a8", "stage:float"), ("faq-w4a4", "stage:float"), ("uniq-w4a4", "stage:float"),
    ("uniq-w2a2", "stage:float"), ("uniq-w1a1", "stage:uniq-w2a2"),
]  # fmt: skip


def test_the_stages_and_where_they_start():
    recipe = made("quickstart")
    assert starts(recipe) == STAGES
    assert (recipe.model, recipe.data) == ("preresnet8", "digits")


@pytest.mark.parametrize("name", [name for name, _ in STAGES[1:]])
def test_a_stage_quantizes_what_its_name_says(name):
    model = fb.models.build("preresnet8", in_channels=1)
    convention = fb.quantize_(model, made("quickstart").stage(name).policy).convention
    bits = name[-1]
    assert name == f"{convention.policy}-w{bits}a{bits}"
    assert convention.inner == f"W{bits}/A{bits}"


def test_one_bit_is_adam_with_warmup_and_no_decay():
    one = last("quickstart", epochs=10)
    assert (one.optimizer, one.weight_decay, one.epochs) == (Adam(), 0.0, 20)
    assert [one.lr_at(epoch) for epoch in (0, 2.9, 3)] == pytest.approx([0.001, 0.001, 0.004])


def test_epochs_scale_the_run_and_are_recorded():
    recipe = made("quickstart", epochs=3)
    assert [stage.epochs for stage in recipe.stages] == [3, 2, 3, 3, 6, 6]
    assert recipe.settings == {"epochs": 3}
