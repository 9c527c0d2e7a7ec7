import re

import pytest

from flatbit.cli.wording import options_named, with_options

OPTIONS = {
    "weights": "-w", "activations": "-a", "placement": "--placement", "layers.placement": "--placement",
    "training.schedule": "--schedule", "batch_size": "--batch-size",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("layers.placement='middle': expected input", "--placement middle: expected input"),
        ("stage 'x': batch_size=0: expected 1", "stage 'x': --batch-size 0: expected 1"),
        ("leave it out, or give weights= or activations=", "leave it out, or give -w or -a"),
        ("training.schedule lacks decay", "--schedule lacks decay"),
        ("policy.override(name, weights=32, activations=32) leaves it", "--float NAME leaves it"),
        ("say policy.override('1.qkv', activations=32)", "say --override '1.qkv: activations=32'"),
        ("override('1'): weights=9: expected 1 to 8", "--override '1': weights=9: expected 1 to 8"),
        ("(strict=False leaves them)", "(--no-strict leaves them)"),
        ("layers.0.weights=3 of my_weights=4", "layers.0.weights=3 of my_weights=4"),
    ],
)
def test_arguments_are_named_as_options(text, says):
    assert with_options(text, OPTIONS) == says
    with pytest.raises(ValueError, match=re.escape(says)), options_named(OPTIONS):
        raise ValueError(text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "uniq-preresnet8-digits", "--epochs", 3), "No such option: --epochs: it is a setting of the recipe: "
         "--set pretraining.epochs=VALUE or --set training.epochs=VALUE"),
        (("run", "uniq-preresnet8-digits", "--eopchs", 3), "No such option: --eopchs: flatbit run --help"),
        (("list", "foo"), "Invalid value for 'kind': 'foo' is not one of 'recipes', 'models'"),
        (("cost",), "flatbit cost --help lists what there is"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_one_line(refuses, words, says):
    line = refuses(*words)
    assert says in line
    assert "Value error" not in line
