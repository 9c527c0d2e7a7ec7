"""docs/experiments.md does what it says: commands build, at the bits of their row, on runs that are there by then."""

import importlib
import re
import shlex
from pathlib import Path, PurePosixPath

import pytest

from flatbit.cli.choice import recipe_of
from flatbit.cli.console import parse_settings
from flatbit.cli.spelling import check_spelling
from flatbit.figures import ANALYSES
from flatbit.ledger.experiments import experiments, papers
from flatbit.recipes import RECIPES, Network
from flatbit.reference import From
from flatbit.settings import places

TEXT = (Path(__file__).parent.parent / "docs/experiments.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| `(flatbit run .+?)` \|$", TEXT, re.MULTILINE)
PROSE = "\n".join(line for line in TEXT.split("\n") if not line.startswith("|"))
COMMANDS = [command for _, _, command in ROWS]
SECTIONS = {part.split("\n")[0]: part for part in TEXT.split("\n## ")[1:]}
OPTIONS = ("--set", "--model", "--model-arg", "--data", "--data-dir", "--data-arg", "--checkpoint", "--out")
AGREED = {
    "SQWA": [*(f"Table {n}" for n in range(1, 7)), "Figures 1 and 4", "text of 5.1", "text of 5.2"],
    "HOL": [*(f"Table {n}" for n in range(1, 6)), *(f"Figure {n}" for n in (1, 2, 3, 6, 7, 8, 9, 10)), "Appendix A"],
    "SAQ": [*(f"Table {n}" for n in (1, 2, 3, 4, "C", "D", "E")), "Tables A", "Tables B", "SAMQ"],
    "UNIQ": [*(f"Table {n}" for n in (1, 2, 4, 5, 6)), "Tables 2, 3", "Figure 3"],
    "FAQ": ["Table 1", "Table 2", "Figure 1", "Figure 2", *(f"text of 4.{n}" for n in (1, 2, 3, 9))],
    "Own: every method from one public net": ["FAQ at 8 bits", "UNIQ at 2 bits", "SAQ: half as many epochs", "SQWA"],
    "Crossed, which no paper has tried": ["ladder"],
}


def read(command):
    """The recipe's name and the values of each option."""
    words = shlex.split(command)
    assert words[:2] == ["flatbit", "run"]
    given = {option: [] for option in OPTIONS}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        given[option].append(value)
    return words[2], given


def build(command):
    name, given = read(command)
    model, data = (next(iter(given[option]), None) for option in ("--model", "--data"))
    network = Network(model=model, arguments=parse_settings(given["--model-arg"], "--model-arg"))
    return recipe_of(name, parse_settings(given["--set"]), network, data)


def bits_of(recipe):
    pairs = {(s.policy.base.weights, s.policy.base.activations) for s in recipe.stages if s.policy is not None}
    return {f"{w}/{a}" for w, a in pairs} | {"32/32"}


def test_every_command_is_in_a_row():
    assert len(ROWS) == TEXT.count("| `flatbit run ") == len(experiments()) > 190
    searched = [line for line in TEXT.split("\n") if "`flatbit search " in line]
    assert len(searched) == TEXT.count("flatbit run ") - len(ROWS)  # what a search chose is trained by a run


def test_every_paper_has_its_section():
    assert [*SECTIONS] == [paper.title for paper in papers()]


@pytest.mark.parametrize("paper", AGREED)
def test_every_table_and_figure_has_its_place(paper):
    assert not [what for what in AGREED[paper] if not re.search(rf"{re.escape(what)}\b", SECTIONS[paper])]


@pytest.mark.parametrize(("what", "bits", "command"), ROWS, ids=[row[2].rpartition(" ")[2] for row in ROWS])
def test_a_command_builds_at_the_bits_of_its_row(what, bits, command):
    check_spelling(shlex.split(command)[1:])
    recipe = build(command)
    stated = set(bits.split(", "))
    made = bits_of(recipe)
    assert stated <= made
    assert made - stated <= {"32/32"}


def test_runs_do_not_share_a_folder():
    folders = [read(command)[1]["--out"] for command in COMMANDS]
    assert all(len(folder) == 1 for folder in folders)
    assert len({folder[0] for folder in folders}) == len(folders)


def test_what_a_run_starts_or_learns_from_is_made_before_it():
    made = {}
    for command in COMMANDS:
        _, given = read(command)
        recipe = build(command)
        for path in given["--checkpoint"]:
            if path.startswith("DIR/"):
                assert path.endswith(".pth"), command
                continue
            run, _, stage = path.partition("/stages/")
            run = run.removesuffix("/model.safetensors")
            assert run in made, command
            assert not stage or PurePosixPath(stage).stem in [s.name for s in made[run].stages]
            assert (made[run].model, made[run].data) == (recipe.model, recipe.data), command
            assert dict(made[run].model_arguments) == dict(recipe.model_arguments), command
        known = {From.file(run) for run in made} | {From.stage(stage.name) for stage in recipe.stages}
        assert {source for stage in recipe.stages for term in stage.losses for source in term.teachers()} <= known
        made[given["--out"][0]] = recipe


def test_weights_given_are_not_trained_again():
    for command in COMMANDS:
        _, given = read(command)
        assert bool(given["--checkpoint"]) == (build(command).stages[0].epochs == 0), command


def test_data_with_files_is_told_its_folder():
    for command in COMMANDS:
        assert bool(read(command)[1]["--data-dir"]) == (build(command).data != "spirals"), command


@pytest.mark.parametrize("name", [n for n in RECIPES.names() if n.count("-") and not n.endswith("digits")])
def test_every_recipe_of_a_paper_has_an_experiment(name):
    assert f"flatbit run {name} " in TEXT


@pytest.mark.parametrize("name", sorted({*re.findall(r"`flatbit analyze (\w+)", PROSE)}))
def test_an_analysis_that_the_prose_names_is_there(name):
    assert name in ANALYSES.names()


@pytest.mark.parametrize("path", sorted({*re.findall(r"`flatbit\.([\w.]+)", PROSE)}))
def test_what_the_prose_names_is_there(path):
    module, _, name = f"flatbit.{path}".rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_a_setting_that_the_prose_names_is_one_of_a_recipe():
    known = {place for name in RECIPES.names() for place in places(RECIPES.get(name).stages)}
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)=", PROSE))
    assert named
    assert named <= known
