import json

import pytest
import torch
from rich.table import Table

from flatbit.cli.console import parse_settings, say, show, usable


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2), ("0.5", 0.5), ("true", True), ("null", None), ('{"a": [1]}', {"a": [1]}), ("resnet20", "resnet20"),
        ('"2"', "2"), ("a=b", "a=b"), ("", ""), ("mine:net", "mine:net"),
    ],
)  # fmt: skip
def test_settings_are_json_or_text(text, value):
    assert parse_settings([f"name={text}"]) == {"name": value}


def test_settings_gather_and_the_last_wins():
    assert parse_settings(["a=1", "b=x", "a=2"]) == {"a": 2, "b": "x"}
    assert parse_settings([]) == {}


@pytest.mark.parametrize("setting", ["weights", "=2", ""])
def test_a_setting_without_name_or_value_is_refused(setting):
    with pytest.raises(ValueError, match=f"--set '{setting}': expected NAME=VALUE"):
        parse_settings([setting])


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
