"""The experiments: each builds, starts from what is there, fills what is published, and says its own command."""

import functools
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flatbit import models, plain
from flatbit.cli.choice import recipe_of
from flatbit.cli.console import parse_settings
from flatbit.data.sets.cifar import CIFAR10, CIFAR100
from flatbit.engine import run
from flatbit.ledger.cells import cells
from flatbit.ledger.evidence import Shelf
from flatbit.ledger.experiments import FILE, Point, experiment, experiments, filled_by, likeness, papers
from flatbit.ledger.published import MIXED, published
from flatbit.ledger.queue import Queue
from flatbit.ledger.searched import searched
from flatbit.models import mobilenet_v2
from flatbit.recipes import Network
from flatbit.reference import START, From

from .cases import write_cifar

every_experiment = pytest.mark.parametrize("entry", experiments().values(), ids=lambda entry: entry.name)
OPTIONS = ("--set", "--model", "--model-arg", "--data", "--data-dir", "--data-arg", "--checkpoint", "--out")
HERE = {"spirals", "cifar10", "cifar100"}
"""Data sets that the tests have, the last two in small."""
CANNOT = {"not run", "cited only", "trend", "misprint"}


@every_experiment
def test_it_builds_and_its_points_are_stages_and_captures_that_it_has(entry):
    stages = {stage.name: stage for stage in entry.made().stages}
    for point in map(Point.parse, entry.fills):
        assert not point.stage or point.stage in stages
        if point.epoch is not None:
            assert point.epoch in stages[point.stage].captures
            assert stages[point.stage].keep_captures or not _asks_for_measures(entry, str(point))


def _asks_for_measures(entry, point):
    metrics = {row.id: row.metric for row in published()}
    return {metrics[row] for row in entry.fills[point]} & {"train_top1", "lambda_max"}


@every_experiment
def test_it_fills_rows_of_its_own_paper_at_their_bits(entry):
    rows = {row.id: row for row in published()}
    stages = {stage.name: stage for stage in entry.made().stages}
    last = entry.made().stages[-1].name
    for point, filled in entry.fills.items():
        policy = stages[Point.parse(point).stage or last].policy
        bits = "32/32" if policy is None else f"{policy.base.weights}/{policy.base.activations}"
        for row in map(rows.get, filled):
            assert row is not None
            assert row.paper.lower() == entry.paper
            if point not in ("average", "swa") and "weights_only" not in row.notes:
                mixed = row.w_bits == MIXED and entry.recipe.startswith("dq-")
                assert row.bits == bits or row.metric == "rho" or mixed, (row, bits)


def test_a_row_is_filled_once():
    filled = [row for entry in experiments().values() for rows in entry.fills.values() for row in rows]
    assert len(filled) == len(set(filled)) == len(filled_by()) > 400


@every_experiment
def test_what_it_starts_or_learns_from_is_there_and_fits(entry):
    recipe = entry.made()
    for name in entry.needs():
        other = experiment(name)
        assert other.dataset == entry.dataset
    if entry.start is not None and entry.given is None:
        name, _, stage = entry.start.partition(":")
        other = experiment(name).made()
        assert not stage or stage in [each.name for each in other.stages]
        assert (other.model, dict(other.model_arguments)) == (recipe.model, dict(recipe.model_arguments))
    sources = {source for stage in recipe.stages for source in stage.references()}
    assert START in sources
    assert (not entry.made().stages[0].epochs) == (entry.start is not None)
    learnt = {
        From.file(value.removeprefix("run:")) for value in entry.settings.values() if str(value).startswith("run:")
    }
    assert learnt == {source for source in sources if str(source).startswith(FILE)}


def test_nothing_waits_for_itself():
    def depth(name, above=()):
        assert name not in above, (*above, name)
        return 1 + max((depth(needed, (*above, name)) for needed in experiment(name).needs()), default=0)

    assert max(map(depth, experiments())) >= 3


@every_experiment
def test_its_command_read_by_the_command_line_is_its_recipe(entry):
    words = shlex.split(entry.command())
    assert words[:2] == ["flatbit", "run"]
    given = {option: [] for option in OPTIONS}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        given[option].append(value)
    model, data = (next(iter(given[option]), None) for option in ("--model", "--data"))
    network = Network(model=model, arguments=parse_settings(given["--model-arg"], "--model-arg"))
    read = recipe_of(words[2], parse_settings(given["--set"]), network, data)
    read = replace(read, data_arguments=parse_settings(given["--data-arg"], "--data-arg"))
    made = entry.made(lambda name: Path("runs") / name)
    assert plain.to_plain(replace(read, settings={})) == plain.to_plain(replace(made, settings={}))
    assert given["--out"] == [f"runs/{entry.name}"]
    assert given["--data-dir"] == (["DIR"] if entry.dataset != "spirals" else [])
    assert bool(given["--checkpoint"]) == (entry.start is not None)


def test_commands_name_the_file_that_the_earlier_run_leaves():
    assert "--checkpoint runs/saq/resnet20-float/model.safetensors" in experiment("saq/resnet20-saq-4").command()
    assert "--checkpoint runs/faq/cifar-8/stages/float.safetensors" in experiment("faq/cifar-4").command()
    assert "--checkpoint DIR/resnet20_cifar10.pth" in experiment("own/c10-faq-8").command()
    assert "distillation.teacher=file:runs/sqwa/teacher" in experiment("sqwa/t1-kd").command()


def test_every_row_has_a_command_or_is_computed_or_says_why_not():
    nothing = Shelf(files={}, left_out={})
    found = cells(published(), nothing)
    for cell in found:
        if cell.status in ("computed", "setting"):
            assert cell.ours is not None
        elif cell.experiment is not None:
            assert cell.command.startswith("flatbit run "), cell.row
            assert cell.status == "not run" or cell.status.startswith("needs data "), cell.row
        else:
            assert cell.status in CANNOT or searched(cell.row), cell.row
            assert bool(cell.command) == (searched(cell.row) is not None), cell.row
            assert cell.why or cell.status == "cited only", cell.row
            assert cell.why != "no experiment fills it", cell.row
    assert len(found) == 761


def test_papers_come_in_the_order_of_the_published_rows_and_hold_every_experiment():
    order = list(dict.fromkeys(row.paper.lower() for row in published()))
    names = [paper.name for paper in papers()]
    assert names[: len(order)] == order
    assert {"own", "crossed"} <= set(names[len(order) :])
    assert [entry.name for paper in papers() for entry in paper.experiments] == list(experiments())
    assert all(paper.title for paper in papers())


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match=r"no experiment 'saq/resnet20-saq-5': .*saq/resnet20-saq-"):
        experiment("saq/resnet20-saq-5")


def test_a_point_is_read_and_written():
    for text in ("", "float", "retrain@250", "a-b_c.d@1"):
        assert str(Point.parse(text)) == text
    assert Point.parse("retrain@250") == Point(stage="retrain", epoch=250)


# Likeness


def test_runs_in_other_folders_are_alike_and_everything_else_tells_them_apart():
    entry = experiment("sqwa/t1-kd")

    def like(folder="there", **changes):
        made = replace(entry.made(lambda name: Path(folder) / name), **changes)
        return likeness(plain.to_plain(made))

    assert like("there") == like("elsewhere/again")
    assert like(name="mine") == like()
    assert like(settings={}) == like()
    first, *_ = entry.made().stages
    for other in ({"model": "resnet32"}, {"data": "cifar10"}, {"model_arguments": {"width": 2}}):
        assert like(**other) != like()
    assert like(stages=(replace(first, epochs=first.epochs + 1),)) != like()
    assert like(stages=(replace(first, losses=first.losses[:1]),)) != like()


def test_no_two_experiments_are_the_same_run():
    """But for where they start: of one recipe, a name of each."""
    made = {}
    for entry in experiments().values():
        key = repr((likeness(plain.to_plain(entry.made())), entry.start, entry.recipe))
        made.setdefault(key, []).append(entry.name)
    assert not [names for names in made.values() if len(names) > 1]


# They run


def kind_of(entry):
    """What distinguishes a run: its recipe, its settings' names, and values that are words; depths and bits do not."""
    settings = {
        key: value if isinstance(value, str) else "" for key, value in entry.settings.items() if key != "schedule"
    }
    return entry.recipe.replace("mobilenet_v2", "preresnet20"), tuple(sorted(settings.items())), entry.start is None


def net_of(entry):
    """The same with the kind of net."""
    kind = re.sub(r"\d+", "", entry.recipe + str(entry.model))
    return kind_of(entry), kind, tuple(entry.model_args), entry.model_args.get("variant")


REACHED = [entry for entry in experiments().values() if entry.dataset in HERE]
KINDS = {kind_of(entry): entry for entry in reversed(REACHED)}
PLANNED = [entry for entry in {net_of(entry): entry for entry in REACHED}.values() if entry not in KINDS.values()]
SMALL = {"depth": 8, "first_width": 4}
SHALLOW = {
    **{f"{kind}{depth}": SMALL for kind in ("resnet", "preresnet") for depth in (20, 32, 44, 56, 110)},
    "resnet_cifar": SMALL, "preresnet_cifar": SMALL, "depthwise_resnet": {"depth": 11, "first_width": 4},
    "resnet18_cifar": {"depths": (1, 1, 1, 1), "first_width": 4}, "mobilenet_v2_cifar": {"width": 0.1},
}  # fmt: skip
"""Nets of the same kinds that are soon built and trained."""


def shallow(builder, small):
    """The builder, whatever it is told of depth and width."""

    @functools.wraps(builder, assigned=())
    def build(**arguments):
        return builder(**arguments | small)

    return build


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A plan of two updates a stage, of shallow nets on small data; what it starts from is there untrained."""
    with pytest.MonkeyPatch.context() as patch:
        for name, small in SHALLOW.items():
            patch.setitem(models.MODELS._objects, name, shallow(models.MODELS.get(name), small))
        patch.setattr(mobilenet_v2, "ROWS", tuple((*row[:2], 1, row[3]) for row in mobilenet_v2.ROWS))
        yield _planning(tmp_path_factory)


def _planning(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for kind in (CIFAR10, CIFAR100):
        write_cifar(root, kind)
    torch.save(models.build("resnet20").state_dict(), root / "resnet20_cifar10.pth")
    queue = Queue(out=tmp_path_factory.mktemp("out"), data_dir=root, device="cpu", say=print, smoke=True)
    return lambda entry: queue._planned(entry, 0, timing=True)


@pytest.mark.parametrize("entry", PLANNED, ids=lambda entry: entry.name)
def test_it_can_be_planned_on_its_data(entry, planned):
    made = planned(entry)
    assert [stage.stage.name for stage in made.stages] == [stage.name for stage in entry.made().stages]
    assert all(stage.updates <= 2 for stage in made.stages)


@pytest.mark.parametrize("entry", KINDS.values(), ids=lambda entry: entry.name)
def test_one_of_each_kind_runs(entry, planned, tmp_path):
    done = run(planned(entry), tmp_path / "run")
    assert list(done.record.stages) == [stage.name for stage in entry.made().stages]
