import json

import pytest
import torch
from rich.table import Table

from flatbit.cli.console import data_arguments, parse_names, parse_seeds, parse_settings, say, show, usable


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2), ("0.5", 0.5), ("true", True), ("null", None), ('{"a": [1]}', {"a": [1]}), ("resnet20", "resnet20"),
        ('"2"', "2"), ("a=b", "a=b"), ("", ""), ("mine:net", "mine:net"), ("1e-3", 0.001),
        (".5", 0.5), ("-.5E-1", -0.05), ("3.", 3.0), (".", "."), ("1.2.3", "1.2.3"), ("v.5", "v.5"), ("02", "02"),
        ("none", "none"),
    ],
)  # fmt: skip
def test_settings_are_json_or_text(text, value):
    parsed = parse_settings([f"name={text}"])
    assert parsed == {"name": value}
    assert type(parsed["name"]) is type(value)


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("0:3", [0, 1, 2]), ("2:4", [2, 3]), ("0,3,4", [0, 3, 4]), ("4,1", [4, 1])]
)
def test_seeds_are_a_number_a_range_or_a_list(text, seeds):
    assert list(parse_seeds(text)) == seeds


@pytest.mark.parametrize("text", ["", "0", "3:3", "4:1", "1,1", "-1:2", "0,-1", "one", "1.5"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=f"--seeds {text}: expected at least 1, each once"):
        parse_seeds(text)


def test_settings_gather_in_order():
    assert parse_settings([]) == {}
    assert list(parse_settings(["b.c=x", "a=1", "b.a=2"]).items()) == [("b.c", "x"), ("a", 1), ("b.a", 2)]


def test_a_setting_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match=r"--set a comes twice, '1' and '2': one of them cannot act"):
        parse_settings(["a=1", "b=x", "a=2"])
    with pytest.raises(ValueError, match=r"--data-arg a comes twice"):
        parse_settings(["a=1", "a=1"], "--data-arg")


@pytest.mark.parametrize("setting", ["weights", "=2", ""])
def test_a_setting_without_name_or_value_is_refused(setting):
    with pytest.raises(ValueError, match=f"--set '{setting}': expected NAME=VALUE, such as weights=2"):
        parse_settings([setting])


def test_names_of_layers_stay_text():
    assert parse_names(["0=1", "a.true=true", "x=1e3"]) == {"0": "1", "a.true": "true", "x": "1e3"}
    with pytest.raises(ValueError, match="--rename 'a': expected OLD=NEW"):
        parse_names(["a"])


def test_data_arguments_have_two_sources():
    assert data_arguments(["size=32"], False) == {"size": 32}
    assert data_arguments(["size=32"], True) == {"size": 32, "skip_bad": True}
    with pytest.raises(ValueError, match="--data-arg 'size': expected NAME=VALUE"):
        data_arguments(["size"], False)


def table():
    made = Table("a column with a name " + "x" * 60, "another column with a name " + "y" * 40)
    made.add_row("1", "2")
    return made


def test_say_is_a_line_on_standard_error(capsys):
    say("working")
    assert capsys.readouterr() == ("", "working\n")


def test_show_prints_the_table_wide_where_nobody_watches(capsys):
    show(table(), {"a": 1}, False)
    out, err = capsys.readouterr()
    assert "x" * 60 in out  # not broken at 80 columns
    assert "{" not in out
    assert err == ""


def test_show_prints_the_value_as_json(capsys):
    show(table(), {"a": [1, 2.5, None]}, True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": [1, 2.5, None]}
    assert err == ""


def test_a_device_that_is_here_is_usable():
    assert usable("cpu") == "cpu"


@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_a_device_that_is_not_here_is_one_line(device):
    with pytest.raises(ValueError, match=f"--device {device}: .*: take cpu, or the name of a device") as caught:
        usable(device)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_cuda_is_one_line():
    with pytest.raises(ValueError, match=r"--device cuda: .*: take cpu"):
        usable("cuda")
