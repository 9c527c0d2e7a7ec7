"""SAMQ's rows: each has a search and a run, which the command line reads as they are meant."""

import shlex

import pytest

from flatbit.cli.choice import recipe_of
from flatbit.cli.console import parse_settings
from flatbit.cli.verbs.search import METHODS
from flatbit.ledger.experiments import experiment
from flatbit.ledger.published import MIXED, published
from flatbit.ledger.searched import RECIPES, Searched, searched
from flatbit.models import MODELS
from flatbit.recipes import Network
from flatbit.search.assignment_file import write_assignment

ROWS = {row.id: row for row in published()}
SEARCHES = list(dict.fromkeys(found for row in published() if (found := searched(row)) is not None))


def options(command):
    """The options of a command, each with its values."""
    words, found = shlex.split(command), {}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        found.setdefault(option, []).append(value)
    return words[:3], found


def test_every_row_of_samq_has_one_and_no_other_has():
    assert {row.id for row in published() if searched(row) is not None} == {
        row.id for row in published() if row.paper == "SAQ" and row.method.startswith("SAMQ") and row.w_bits == MIXED
    }
    assert len(SEARCHES) == len({each.name for each in SEARCHES}) == 9


@pytest.mark.parametrize(
    ("id", "net", "bits", "sharp"),
    [
        ("SAQ-T1-21", "resnet20", 4, (True, True)), ("SAQ-T1-44", "resnet20", 3, (True, True)),
        ("SAQ-T1-65", "mobilenet", 4, (True, True)), ("SAQ-T1-88", "mobilenet", 3, (True, True)),
        ("SAQ-T2-43", "resnet18-imagenet", 4, (True, True)), ("SAQ-T2-91", "mobilenet_v2-imagenet", 4, (True, True)),
        ("SAQ-T4-03", "resnet20", 3, (False, False)), ("SAQ-T4-07", "resnet20", 3, (True, False)),
        ("SAQ-T4-11", "resnet20", 3, (False, True)), ("SAQ-T4-15", "resnet20", 3, (True, True)),
    ],
)  # fmt: skip
def test_of_which_net_at_which_budget(id, net, bits, sharp):
    assert searched(ROWS[id]) == Searched(net=net, bits=bits, sharp_search=sharp[0], sharp_training=sharp[1])


@pytest.mark.parametrize("row", [row for row in published() if searched(row) and row.metric.startswith("BOPs")])
def test_the_budget_is_the_uniform_net_s_that_stands_above_it(row):
    """By another way: the last net of SAQ's own above the row, of the same network, says the bits."""
    found = searched(row)
    before = [r for r in published() if (r.network, r.dataset, r.method) == (row.network, row.dataset, "SAQ")]
    above = [r for r in before if r.metric == row.metric and r.table in ("T1", "T2") and r.value >= row.value]
    assert str(found.bits) == min(above, key=lambda r: r.value).w_bits


@pytest.mark.parametrize("found", SEARCHES, ids=lambda found: found.name)
def test_its_commands_are_read_as_they_are_meant(found, tmp_path):
    search, train = found.commands()
    (_, verb, model), asked = options(search)
    assert (verb, model, asked["--method"], asked["--budget"]) == (
        "search", RECIPES[found.net][0], ["samq"], [f"{found.bits}bits"],
    )  # fmt: skip
    assert MODELS.get(model)
    assert "samq" in METHODS
    assert asked.get("--rho", [""]) == ["" if found.sharp_search else "0"]

    (_, verb, recipe), given = options(train)
    settings = parse_settings(given["--set"])
    assert settings["assignment"] == f"{asked['--out'][0]}/assignment.toml"
    path = tmp_path / "assignment.toml"
    write_assignment({"layer": (2, 2)}, path)
    made = recipe_of(recipe, settings | {"assignment": str(path)}, Network(), None)
    assert (verb, made.model) == ("run", model)
    assert bool(made.stages[-1].sharpness) == found.sharp_training
    start = experiment(found.start)
    assert (start.made().model, dict(start.made().model_arguments)) == (made.model, dict(made.model_arguments))
    assert parse_settings(asked.get("--model-arg", [])) == dict(made.model_arguments)
    assert asked["--checkpoint"] == given["--checkpoint"] == [f"runs/{start.name}/model.safetensors"]
    assert asked["--data"] == [made.data]
