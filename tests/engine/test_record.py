"""Records: written by names, read back equal, and nothing imported without trust."""

import copy
import json
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit.engine import Recipe, RunRecord, Stage, read_run
from flatbit.engine.record import (
    FORMAT,
    BatchNormChange,
    Environment,
    EpochRecord,
    Failure,
    GivenCheckpoint,
    StageRecord,
    Totals,
    first_difference,
    write_record,
)
from flatbit.metrics.health import Finding
from flatbit.reference import From
from flatbit.train import schedules
from flatbit.train.losses.cost import CostPenalty
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation
from flatbit.train.optimizers import SGD, Adam
from flatbit.train.sharpness import Sharpness

from .cases import CYCLES, FLOAT, POLICY, SHARP, SQWA, Diverging, exported, net, ran, recipe, shades

HERE = Environment.here()


def recorded(made, **parts):
    return RunRecord(**{"recipe": made, "seed": 0, "device": "cpu", "environment": HERE} | parts)


def through(record, *, trust=False):
    """The record after its way through a file's text."""
    return RunRecord.from_dict(json.loads(json.dumps(record.as_dict())), trust=trust)


def metrics():
    model = net()
    fb.quantize_(model, POLICY)
    fb.calibrate_(model, shades().train_batches(12, seed=0))
    return fb.evaluate(model, shades().test_batches())


EPOCH = EpochRecord(
    epoch=1, lr=0.1, train_loss=0.1 + 0.2, train_top1=33.3, losses={"cross_entropy": 0.3}, images_per_s=1e3,
    seconds=2.0,
)  # fmt: skip
TOTALS = Totals(bitops=10**12, macs=1, params=2, size_bytes=3)


# What is read back equal


def test_exports_are_read_back_equal_one_per_net_and_form():
    made = recorded(recipe(FLOAT)).with_export(exported()).with_export(exported(stage="float", container="int8"))
    assert through(made) == made
    later = made.with_export(exported(top1=60.0))
    assert [*later.exports] == ["qdq", "float/qdq"]
    assert later.exports["qdq"].top1 == 60.0


def test_a_record_from_before_there_were_exports_is_read():
    made = recorded(recipe(FLOAT))
    found = json.loads(json.dumps(made.as_dict()))
    assert found.keys().isdisjoint({"exports", "plugins"})  # written only where there are some
    assert RunRecord.from_dict(found) == made


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Constant(0.5), schedules.Linear(0.1), schedules.MultiStep((75, 125)), schedules.Exponential(0.936),
        schedules.Cosine(warmup=5, warmup_factor=0.25), schedules.Polynomial(), schedules.Cyclic(0.01, 4, 2.5),
        schedules.Join(((0, schedules.Linear(0.0)), (5, schedules.Join(((0, schedules.Cosine()),))))),
    ],
)  # fmt: skip
def test_every_schedule_is_read_back_equal(schedule):
    made = recorded(recipe(replace(FLOAT, epochs=200, schedule=schedule)))
    assert through(made) == made


@pytest.mark.parametrize(
    "term",
    [
        CrossEntropy(weight=0.1), Lipschitz(weight=1e-3), CostPenalty(target_mbitops=2.5),
        Distillation(teacher=From.file("runs/teacher"), temperature=2.0, weight=1.0),
        Distillation(teacher=From.start(), network=nn.Identity()),
    ],
)  # fmt: skip
def test_every_loss_is_read_back_equal(term):
    made = recorded(recipe(replace(FLOAT, losses=(term, CrossEntropy(name="again")))))
    assert through(made) == made


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.8, nesterov=True), SGD(momentum=0), Adam()])
def test_every_optimizer_is_read_back_equal(optimizer):
    made = recorded(recipe(replace(FLOAT, optimizer=optimizer)))
    assert through(made) == made


@pytest.mark.parametrize(
    "policy",
    [
        POLICY, fb.policy("faq", weights=4), fb.policy("lsq", weights=3, activations=3, granularity="channel"),
        POLICY.override(nn.Linear, weights=4).override("4*", method="lsq", activation_options={"signed": True}),
        POLICY.override("@first", input_bits=8, placement="input").first_last(first="0", last="8"),
    ],
)  # fmt: skip
def test_every_policy_is_read_back_equal(policy):
    made = recorded(recipe(FLOAT, replace(FLOAT, name="q", policy=policy)))
    found = through(made)
    assert found == made
    assert found.recipe.stages[1].policy.resolve(net()) == policy.resolve(net())


@pytest.mark.parametrize("start", [From.start(), From.stage("float"), From.file("a b/c.safetensors")])
def test_every_reference_is_read_back_equal(start):
    made = recorded(recipe(FLOAT, replace(FLOAT, name="b", start=start)))
    assert through(made) == made


@pytest.mark.parametrize("stages", [SQWA, (FLOAT, SHARP), (FLOAT, replace(CYCLES, calibration_batches=3))])
def test_whole_recipes_are_read_back_equal(stages):
    made = recorded(recipe(*stages, settings={"weights": 2, "sharpness.rho": 0.1, "clr": None}))
    for record in (made, replace(made, recipe=made.recipe.smoke())):
        assert through(record) == record


def test_what_a_run_reached_is_read_back_equal():
    test = metrics()
    entry = StageRecord(
        metric="top1", test=test, best_test=99.5, cost=TOTALS, seconds=0.1 + 0.2,
        epochs=(EPOCH, replace(EPOCH, epoch=2, test_top1=10.0, test_loss=2.5, test_miou=3.0, capture=1)),
        batchnorm=(BatchNormChange(step="frozen", before=1.0, after=2.0),),
    )  # fmt: skip
    finding = Finding(layer="input of fc", problem="dead", evidence="0 of 4", mend="recalibrate")
    made = recorded(
        recipe(FLOAT), stages={"float": entry, "b": replace(entry, best_test=None, epochs=(), batchnorm=())},
        checkpoint=GivenCheckpoint(file="w.pth", sha256="ab" * 32, test=test),
        failure=Failure(stage="float", message="the loss is not finite", findings=(finding,)),
        left_out={"a b.png": "cannot identify image file"},
    )  # fmt: skip
    found = through(made)
    assert found == made
    assert list(found.stages) == ["float", "b"]


@settings(deadline=None)
@given(
    st.builds(
        Stage, name=st.from_regex(r"\w[\w+-]{0,8}", fullmatch=True), epochs=st.integers(99, 300),
        lr=st.floats(1e-9, 1e3), weight_decay=st.floats(0, 1), batch_size=st.integers(100, 4096),
        accumulation=st.lists(st.integers(0, 98), max_size=3, unique=True).map(
            lambda epochs: tuple((epoch, index + 2) for index, epoch in enumerate(sorted(epochs)))
        ),
        reestimate_batches=st.integers(0, 99), evaluate_every=st.integers(1, 99),
        max_steps=st.none() | st.integers(1, 99),
        sharpness=st.none() | st.builds(Sharpness, method=st.sampled_from(["asam", "asaq"]), rho=st.floats(1e-9, 9),
                                        eta=st.none() | st.floats(0, 1), shard=st.none() | st.integers(1, 99)),
    )
)  # fmt: skip
def test_any_stage_is_read_back_equal(stage):
    made = recorded(recipe(stage))
    assert through(made) == made


# How it is written


def test_it_says_its_format_and_everything_by_name():
    plain = recorded(recipe(replace(FLOAT, schedule=schedules.Cosine(), optimizer=Adam()))).as_dict()
    assert plain["format"] == FORMAT == 2
    stage = plain["recipe"]["stages"][0]
    assert stage["schedule"] == {"kind": "cosine", "warmup": 0, "warmup_factor": 1.0}
    assert stage["losses"] == [{"kind": "cross_entropy", "weight": 1.0, "name": "cross_entropy"}]
    assert (stage["optimizer"], stage["start"]) == ({"kind": "adam"}, "start")
    assert "policy" not in stage  # none
    assert plain["environment"]["torch"] == torch.__version__


def test_a_policy_says_layer_classes_by_name():
    policy = POLICY.override(nn.Linear, weights=4)
    plain = recorded(recipe(replace(FLOAT, policy=policy))).as_dict()
    assert plain["recipe"]["stages"][0]["policy"]["rules"][-1] == {
        "pattern": {"class": "nn.Linear"}, "changes": {"weights": 4}, "optional": False,
    }  # fmt: skip


def test_a_record_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    made = recorded(recipe(FLOAT))
    assert write_record(tmp_path / "new", made) is made
    before = (tmp_path / "new" / "run.json").read_text()
    assert json.loads(before) == made.as_dict()
    monkeypatch.setattr(json, "dumps", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_record(tmp_path / "new", replace(made, seed=1))
    assert (tmp_path / "new" / "run.json").read_text() == before
    assert len(list((tmp_path / "new").iterdir())) == 1


# What it knows


def test_a_stage_more_and_what_is_finished():
    made = recorded(recipe(FLOAT, replace(FLOAT, name="b")), failure=Failure(stage="b", message="no"))
    entry = StageRecord(metric="top1", test=metrics(), cost=TOTALS, seconds=0.0)
    more = made.with_stage("float", entry)
    assert (more.failure, list(more.stages), made.stages) == (None, ["float"], {})
    assert [stage.name for stage in more.finished()] == ["float"]


def test_scores_are_by_the_metric():
    test = metrics()
    entry = StageRecord(metric="top1", test=test, cost=TOTALS, seconds=0.0)
    assert entry.score == test.top1
    pixels = StageRecord(metric="miou", test=replace(test, miou=12.5), cost=TOTALS, seconds=0.0)
    assert pixels.score == 12.5
    epoch = replace(EPOCH, test_top1=4.0, test_miou=5.0)
    assert (epoch.score("top1"), epoch.score("miou"), EPOCH.score("top1")) == (4.0, 5.0, None)


def test_chance_is_up_to_half_more_than_guessing():
    test = metrics()
    for top1, metric, at_chance in ((15.0, "top1", True), (15.1, "top1", False), (1.0, "miou", False)):
        entry = StageRecord(metric=metric, test=replace(test, top1=top1), cost=TOTALS, seconds=0.0)
        assert entry.at_chance(10) is at_chance


def test_totals_are_those_of_a_cost():
    cost = fb.cost(net(), (1, 8, 8))
    assert Totals.of(cost) == Totals(bitops=cost.bitops, macs=cost.macs, params=cost.params, size_bytes=cost.size_bytes)


def test_the_first_difference_is_said_in_words():
    there = {"a": {"b": [1, {"c": "x" * 99}]}}
    assert first_difference(there, {"a": {"b": [1, {"c": "y"}]}}).startswith("its a.b[1].c is 'xxx")
    assert first_difference(there, {"a": {"b": [1]}}).startswith("its a.b is [1, {'c': 'x")
    assert first_difference({"a": 1}, {"b": 2}) == "its a is 1, here it is None"


# What is refused


def in_file(folder, text):
    (folder / "run.json").write_text(text if isinstance(text, str) else json.dumps(text))
    return folder


def test_a_folder_without_a_record_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"no run in .*: it has no run\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["{half", "", "\xff"])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[1]", '{"seed": 1}', "3", "null"])
def test_another_json_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"run\.json: no record of a run: it has no recipe"):
        read_run(in_file(tmp_path, text))


@pytest.mark.parametrize(("number", "said"), [(None, 1), (1, 1), (3, 3), ("2", "2"), ("new", "new")])
def test_another_format_is_refused_in_one_line(tmp_path, number, said):
    plain = recorded(recipe(FLOAT)).as_dict() | {"format": number}
    plain = {key: part for key, part in plain.items() if part is not None}
    with pytest.raises(
        ValueError,
        match=rf"run\.json: a record of format {said}, written by an?(other| older) version: this version reads 2$",
    ) as caught:
        read_run(in_file(tmp_path, plain))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("seed",), "0", r"seed='0': expected a whole number"),
        (("recipe", "stages", 0, "lr"), "fast", r"recipe\.stages\[0\]\.lr='fast': expected a number"),
        (("recipe", "stages", 0, "epochs"), -1, r"stage 'float': epochs=-1: expected 0 or more"),
        (("recipe", "stages", 0, "schedule", "kind"), "cosin", r"unknown schedule 'cosin': did you mean cosine"),
        (("recipe", "stages", 0, "schedule"), {"factor": 1}, r"schedule=\{'factor': 1\}: expected a schedule"),
        (("recipe", "stages", 0, "start"), "float", r"start='float': expected start, stage:NAME"),
        (("recipe", "stages", 0, "speed"), 1, r"recipe\.stages\[0\] has no 'speed'"),
        (("recipe", "name"), None, r"recipe\.name=None: expected text"),
        (("environment",), {}, r"environment lacks flatbit"),
        (("recipe", "stages", 0, "losses", 0, "kind"), "adam", r"unknown loss 'adam'"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_place(tmp_path, place, value, words):
    plain = recorded(recipe(FLOAT)).as_dict()
    inner = plain
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=words) as caught:
        read_run(in_file(tmp_path, plain))
    assert str(tmp_path / "run.json") in str(caught.value)


def places(value, place=()):
    """Every place in nested plain values."""
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*place, key))


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(
    [[], {}, [1], {"kind": "adam"}, {"kind": "a:b"}, {"class": "nn.Linear"}, {"class": 3}, [[1, 2]], {"a": None}]
)  # fmt: skip
SAMPLE = recorded(
    recipe(FLOAT, replace(SHARP, policy=POLICY.override(nn.Linear, weights=4)), model_arguments={"a": [1]}),
    stages={"float": StageRecord(metric="top1", test=metrics(), cost=TOTALS, seconds=1.0, epochs=(EPOCH,))},
).as_dict()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(places(SAMPLE))[1:]), ANY)
def test_whatever_stands_anywhere_is_read_or_refused_as_a_value(place, value):
    """No other error, whatever a file holds."""
    plain = copy.deepcopy(SAMPLE)
    inner = plain
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        RunRecord.from_dict(plain)
    except ValueError as error:
        assert str(error)  # noqa: PT017


# Classes of the user's own


def test_a_class_of_ones_own_is_written_with_its_module_and_read_only_with_trust(tmp_path):
    made = recorded(recipe(replace(FLOAT, losses=(CrossEntropy(), Diverging(weight=0.5)))))
    term = made.as_dict()["recipe"]["stages"][0]["losses"][1]
    assert term == {"kind": "tests.engine.cases:Diverging", "weight": 0.5, "name": "diverging"}
    write_record(tmp_path, made)
    with pytest.raises(
        ValueError, match=r"losses\[1\]: wants to import 'tests\.engine\.cases:Diverging': if you trust"
    ):
        read_run(tmp_path)
    assert read_run(tmp_path, trust=True).record == made


def test_without_trust_nothing_is_imported(tmp_path, monkeypatch):
    text = (
        "from dataclasses import dataclass\nfrom flatbit.train.schedules import Schedule\n"
        "@dataclass(frozen=True)\nclass Mine(Schedule):\n    slope: float = 2.0\n"
        "    def __call__(self, epoch, epochs):\n        return self.slope\n"
    )
    (tmp_path / "record_plugin.py").write_text(text)
    plain = recorded(recipe(FLOAT)).as_dict()
    plain["recipe"]["stages"][0]["schedule"] = {"kind": "record_plugin:Mine", "slope": 3.0}
    monkeypatch.chdir(tmp_path)
    in_file(tmp_path, plain)
    with pytest.raises(ValueError, match="wants to import 'record_plugin:Mine'"):
        read_run(tmp_path)
    assert "record_plugin" not in sys.modules
    schedule = read_run(tmp_path, trust=True).record.recipe.stages[0].schedule
    monkeypatch.delitem(sys.modules, "record_plugin")
    assert (type(schedule).__name__, schedule.slope) == ("Mine", 3.0)


def test_a_trusted_class_is_still_one_of_its_family(tmp_path):
    plain = recorded(recipe(FLOAT)).as_dict()
    plain["recipe"]["stages"][0]["schedule"] = {"kind": "tests.engine.cases:Diverging"}
    with pytest.raises(ValueError, match=r"schedule='tests\.engine\.cases:Diverging': expected a schedule"):
        read_run(in_file(tmp_path, plain), trust=True)
    plain["recipe"]["stages"][0]["schedule"] = {"kind": "os:abort"}
    with pytest.raises(ValueError, match=r"schedule='os:abort': expected a schedule"):
        read_run(in_file(tmp_path, plain), trust=True)


@dataclass(frozen=True)
class Registered(schedules.Schedule):
    """One that a plug-in file would register."""

    def __call__(self, epoch, epochs):
        return 1.0


def test_a_registered_class_of_ones_own_needs_no_trust(monkeypatch):
    monkeypatch.setattr(schedules.SCHEDULES, "_objects", dict(schedules.SCHEDULES._objects))
    schedules.SCHEDULES.add("mine", Registered)
    made = recorded(recipe(replace(FLOAT, schedule=Registered())))
    assert made.as_dict()["recipe"]["stages"][0]["schedule"] == {"kind": "mine"}
    assert through(made) == made


def test_a_run_leaves_a_record_that_is_read_back_equal(tmp_path):
    made = ran(recipe(*SQWA), tmp_path, smoke=True)
    assert read_run(tmp_path) == made
    assert isinstance(read_run(str(tmp_path)).record.recipe, Recipe)


def test_a_folder_of_several_runs_names_them(tmp_path):
    for seed in (0, 1):
        write_record(tmp_path / f"seed{seed}", recorded(recipe(FLOAT)))
    with pytest.raises(ValueError, match=r"no run in .*: it has no run\.json; name one of those in it: seed0, seed1"):
        read_run(tmp_path)
