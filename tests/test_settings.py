"""Settings: names with dots and plain values become the arguments of a function, or an error that says why not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from flatbit.cli.console import parse_settings
from flatbit.reference import START, From
from flatbit.settings import alternatives, as_options, bound, part_of, places
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.teacher import Distillation
from flatbit.train.schedules import Constant, Cosine, Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A part of a part."""

    depth: int = 1
    share: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """With a default for all but its rate."""

    rate: float
    epochs: int = 10
    mode: Literal["low", "high"] = "low"
    inner: Inner | None = None
    sizes: tuple[int, ...] = (1, 2)
    hidden: Any = field(default=None, metadata={"skipped": True})

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate={self.rate}: expected 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """A part that cannot be left out, with one that is there by default."""

    inner: Inner = Inner(depth=7)
    maybe: Inner | None = Inner(share=0.25)
    need: int | None


def function(
    *,
    bits: int = 2,
    lr: float | None = None,
    kind: Literal["a", "b"] = "a",
    step: float | Literal["best"] = "best",
    quick: bool = False,
    names: tuple[str, ...] = (),
    by_bits: Mapping[int, float] | None = None,
    source: From = START,
    schedule: Schedule = Constant(),  # noqa: B008
    part: Part | None = Part(rate=0.1, epochs=3, hidden="kept"),
    off: Part | None = None,
    inner: Inner = Inner(),
    choice: Inner | Literal["scratch"] | None = Inner(depth=3),
    loss: Distillation | None = Distillation(temperature=2.0),  # noqa: B008
):
    """Everything that a setting can be."""


def one(name, given, usual=None):
    return bound(function, given, usual)[name]


# What is there by default


def test_nothing_given_is_the_functions_own_defaults():
    parameters = inspect.signature(function).parameters
    assert bound(function, {}) == {name: parameter.default for name, parameter in parameters.items()}


def test_what_has_no_default_and_is_not_given_is_left_to_the_function():
    def needs(bits: int, more: int = 1): ...

    assert bound(needs, {}) == {"more": 1}
    assert bound(needs, {"bits": 3}) == {"bits": 3, "more": 1}


def test_a_parameter_without_an_annotation_takes_anything():
    def loose(x=1): ...

    assert bound(loose, {"x": ["y"]}) == {"x": ["y"]}


# Plain values


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("bits", 4, 4),
        ("lr", 1, 1),
        ("lr", 0.5, 0.5),
        ("lr", None, None),
        ("lr", "none", None),
        ("kind", "b", "b"),
        ("step", "best", "best"),
        ("step", 0.1, 0.1),
        ("quick", True, True),
        ("names", ["x", "y"], ("x", "y")),
        ("names", [], ()),
        ("by_bits", {"2": 0.1}, {2: 0.1}),
        ("source", "stage:float", From.stage("float")),
        ("schedule", "cosine", Cosine()),
        ("schedule", {"kind": "constant", "factor": 0.5}, Constant(0.5)),
    ],
)
def test_a_plain_value_becomes_what_is_annotated(name, value, expected):
    assert one(name, {name: value}) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bits": "two"}, "bits='two': expected a whole number"),
        ({"bits": 2.5}, "bits=2.5: expected a whole number"),
        ({"bits": True}, "bits=True: expected a whole number"),
        ({"bits": None}, "bits=none: expected int"),
        ({"bits": "none"}, "bits='none': expected a whole number"),
        ({"lr": "fast"}, "lr='fast': expected a number"),
        ({"kind": "c"}, "kind='c': expected a or b"),
        ({"kind": None}, "kind=none: expected a or b"),
        ({"step": "worst"}, "step='worst': expected a number; or step='worst': expected best"),
        ({"quick": 1}, "quick=1: expected true or false"),
        ({"names": "x"}, "names='x': expected a list"),
        ({"names": ["x", 1]}, r"names\[1\]=1: expected text"),
        ({"by_bits": [1]}, r"by_bits=\[1\]: expected a mapping"),
        ({"source": "float"}, "source='float': expected start, stage:NAME"),
        ({"schedule": "cosin"}, "schedule=unknown schedule 'cosin': did you mean cosine"),
        ({"inner": "none"}, "inner='none': it is a part with settings of its own: inner=on, or inner.FIELD=VALUE"),
        ({"inner": None}, "inner=none: expected Inner"),
    ],
)
def test_what_does_not_fit_says_what_was_expected(given, words):
    with pytest.raises(ValueError, match=words):
        bound(function, given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bit": 2}, "no setting 'bit': did you mean bits"),
        ({"prat.epochs": 2}, "no setting 'prat.epochs': did you mean part"),
        ({"zzz": 2}, "no setting 'zzz': known: bits, by_bits, choice"),
        ({"part.epoch": 2}, "no setting 'part.epoch': did you mean epochs"),
        ({"part.inner.deep": 2}, "no setting 'part.inner.deep': did you mean depth"),
        ({"part.hidden": 2}, "no setting 'part.hidden': known: epochs, inner, mode, rate, sizes"),
        ({"part": {"rate": 1, "epoch": 2}}, "no setting 'part.epoch': did you mean epochs"),
        ({"bits.x": 2}, "bits has no settings of its own, such as 'x': it is int"),
        ({"kind.x": 2}, "kind has no settings of its own, such as 'x': it is a or b"),
        ({"source.name": 2}, "source has no settings of its own, such as 'name': it is From"),
        ({"part.inner.depth.x": 2}, "part.inner.depth has no settings of its own"),
    ],
)
def test_an_unknown_place_suggests_the_nearest(given, words):
    with pytest.raises(ValueError, match=words):
        bound(function, given)


# Parts


def test_a_field_is_set_on_top_of_what_stands_there_by_default():
    assert one("part", {"part.rate": 0.9}) == Part(rate=0.9, epochs=3, hidden="kept")
    assert one("inner", {"inner.depth": 4}) == Inner(depth=4)
    assert one("loss", {"loss.weight": 0.5}) == Distillation(temperature=2.0, weight=0.5)
    assert one("loss", {"loss.teacher": "file:x"}) == Distillation(temperature=2.0, teacher=From.file("x"))


def test_a_field_of_a_part_that_is_off_turns_it_on():
    assert one("off", {"off.rate": 0.3}) == Part(rate=0.3)
    assert one("part", {"part.inner.depth": 4}) == Part(rate=0.1, epochs=3, inner=Inner(depth=4), hidden="kept")


def test_a_part_is_left_out_or_taken_as_it_is():
    for off in ("none", None):
        assert one("part", {"part": off}) is None
    assert one("part", {"part": "on"}) == one("part", {})
    assert one("choice", {"choice": "scratch"}) == "scratch"
    assert one("choice", {"choice": "on"}) == Inner(depth=3)
    assert one("choice", {"choice": "none"}) is None
    assert one("part", {"part.inner": "on"}).inner == Inner()
    assert one("part", {"part": "on", "part.epochs": 5}) == Part(rate=0.1, epochs=5, hidden="kept")
    assert one("off", {"off": "on", "off.rate": 5}) == Part(rate=5)


@pytest.mark.parametrize("given", [{"part": {"rate": 0.5, "inner": "on"}}, {"part": {"rate": 0.5, "inner": {}}}])
def test_a_part_can_be_given_as_a_mapping_of_its_fields_and_has_nothing_of_the_default(given):
    assert one("part", given) == Part(rate=0.5, inner=Inner())
    assert one("part", given | {"part.epochs": 8}) == Part(rate=0.5, epochs=8, inner=Inner())


def test_parts_within_a_part_that_are_there_by_default():
    def whole(*, x: Whole = Whole(need=1)): ...

    assert bound(whole, {"x.maybe.depth": 2})["x"] == Whole(need=1, maybe=Inner(depth=2, share=0.25))
    assert bound(whole, {"x.maybe": "on"})["x"] == Whole(need=1)
    assert bound(whole, {"x.maybe": "none"})["x"] == Whole(need=1, maybe=None)
    assert bound(whole, {"x.inner.share": 0.1})["x"].inner == Inner(depth=7, share=0.1)
    assert bound(whole, {"x.need": "none"})["x"].need is None
    assert bound(whole, {"x": {}})["x"] == Whole(need=None)  # what may be none is none where nobody says


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"part": "none", "part.epochs": 2},
            "part=none leaves that part out: part.epochs cannot act: leave it out too",
        ),
        ({"part.epochs": 2, "part": None}, "part=none leaves that part out: part.epochs cannot act"),
        ({"part": "none", "part.inner.depth": 2}, "part=none leaves that part out: part.inner.depth cannot act"),
        ({"part.inner": "none", "part.inner.depth": 2}, "part.inner=none leaves .* part.inner.depth cannot act"),
        ({"part.inner.depth": 2, "part.inner": "none"}, "part.inner=none leaves .* part.inner.depth cannot act"),
        (
            {"part": 0.1},
            r"part=0.1: it is a part with settings of its own: part=on, part=none, or part.FIELD=VALUE \(rate",
        ),
        ({"part.inner": 3}, r"part.inner=3: it is a part .* part.inner.FIELD=VALUE \(depth, share\)"),
        ({"choice": "scratsch"}, "choice=on, choice=scratch, choice=none, or choice.FIELD=VALUE"),
        ({"choice": "scratch", "choice.depth": 2}, "choice=scratch leaves that part out: choice.depth cannot act"),
        ({"off": "on"}, "off lacks rate: say what it is"),
        ({"off.epochs": 2}, "off lacks rate: say what it is"),
        ({"part.rate": "fast"}, "part.rate='fast': expected a number"),
        ({"part.mode": "best"}, "part.mode='best': expected low or high"),
        ({"part.sizes": [1, "x"]}, r"part.sizes\[1\]='x': expected a whole number"),
        ({"part.rate": -1}, "rate=-1: expected 0 or more"),
    ],
)
def test_what_a_part_cannot_be_says_why(given, words):
    with pytest.raises(ValueError, match=words):
        bound(function, given)


def test_what_is_given_twice_is_refused():
    for given in (
        {"part": {"rate": 0.5}, "part.rate": 0.25},
        {"part.inner.depth": 2, "part": {"rate": 0.5, "inner": {"depth": 1}}},
    ):
        with pytest.raises(
            ValueError, match=r"^part\.\S+ is given twice, alone and in part=.*: one of them cannot act"
        ):
            bound(function, given)
    assert one("part", {"part": {"rate": 0.5}, "part.epochs": 3}).epochs == 3


def test_the_order_of_settings_does_not_matter():
    for given in ({"part.inner": "on", "part.inner.depth": 3}, {"part.inner.depth": 3, "part.inner": "on"}):
        assert one("part", given).inner == Inner(depth=3)


# Given, over usual, over the function's own


@pytest.mark.parametrize(
    ("usual", "given", "expected"),
    [
        ({"part.epochs": 5}, {}, Part(rate=0.1, epochs=5, hidden="kept")),
        ({"part.epochs": 5}, {"part.epochs": 6}, Part(rate=0.1, epochs=6, hidden="kept")),
        ({"part.epochs": 5}, {"part.rate": 1}, Part(rate=1, epochs=5, hidden="kept")),
        ({"part.epochs": 5}, {"part": "none"}, None),
        ({"part.epochs": 5}, {"part": "on"}, Part(rate=0.1, epochs=5, hidden="kept")),
        ({"part.epochs": 5}, {"part": {"rate": 1}}, Part(rate=1)),
        ({"part": "none", "part.epochs": 5}, {}, None),
        ({"part": "none", "part.epochs": 5}, {"part": "on"}, Part(rate=0.1, epochs=5, hidden="kept")),
        ({"part": "none", "part.epochs": 5}, {"part.rate": 1}, Part(rate=1, epochs=5, hidden="kept")),
        ({"part": None}, {"part.rate": 1}, Part(rate=1, hidden="kept", epochs=3)),
        ({"part": {"rate": 9}}, {"part.epochs": 1}, Part(rate=9, epochs=1)),
    ],
)
def test_what_is_given_is_in_place_of_what_is_usual(usual, given, expected):
    assert one("part", given, usual) == expected


@pytest.mark.parametrize(
    ("usual", "given", "expected"),
    [
        ({"off.rate": 1}, {}, Part(rate=1)),
        ({"off.rate": 1}, {"off": "on"}, Part(rate=1)),
        ({"off.rate": 1, "off.epochs": 2}, {"off.epochs": 4}, Part(rate=1, epochs=4)),
        ({"off": "none", "off.rate": 1}, {}, None),
        ({"off": "none", "off.rate": 1}, {"off": "on"}, Part(rate=1)),
        ({"off": "on", "off.rate": 1}, {}, Part(rate=1)),
    ],
)
def test_usual_fields_of_a_part_that_the_function_leaves_off(usual, given, expected):
    assert one("off", given, usual) == expected


def test_usual_values_of_what_is_no_part():
    assert bound(function, {}, {"bits": 4, "lr": 0.1})["bits"] == 4
    assert bound(function, {"bits": 8}, {"bits": 4})["bits"] == 8
    assert bound(function, {"lr": "none"}, {"lr": 0.1})["lr"] is None
    assert bound(function, {}, {"lr": "none"})["lr"] is None


# Places


def test_places_are_every_setting_with_its_annotation():
    def small(*, bits: int = 1, part: Part | None = None, source: From = START) -> tuple[int, ...]: ...

    found = places(small)
    assert list(found) == [
        "bits", "part", "part.rate", "part.epochs", "part.mode", "part.inner", "part.inner.depth", "part.inner.share",
        "part.sizes", "source",
    ]  # fmt: skip
    assert (found["bits"], found["part.inner"], found["part.inner.share"]) == (int, Inner | None, float)


def test_a_field_that_is_no_setting_has_no_place_and_cannot_be_given():
    assert "loss.weight" in places(function)
    assert "loss.name" not in places(function)
    for given in ({"loss.name": "mine"}, {"loss": {"name": "mine"}}):
        with pytest.raises(ValueError, match=r"no setting 'loss\.name': known: teacher, temperature, weight"):
            bound(function, given)


@pytest.mark.parametrize("place", [place for place in places(function) if place.count(".") == 1])
def test_every_place_can_be_set(place):
    name, _, key = place.partition(".")
    base = {"off.rate": 1, "loss.weight": 0.5}
    for value in alternatives(places(function)[place], None):
        arguments = bound(function, base | {place: value})
        assert hasattr(arguments[name], key)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (Part, Part),
        (Part | None, Part),
        (Inner | Literal["scratch"] | None, Inner),
        (Distillation | None, Distillation),
        (Part | Inner, None),  # which of them?
        (int, None),
        (int | None, None),
        (From, None),  # it has a spelling of its own
        (Schedule, None),
        (tuple[Part, ...], None),
        (Any, None),
    ],
)
def test_the_part_of_an_annotation(kind, part):
    assert part_of(kind) is part


# Alternatives


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, 4, [5, 3]),
        (int, 0, [1]),
        (int, "?", [2, 10]),
        (int | None, None, [2, 10]),
        (int | None, 4, [5, 3, "none"]),
        (float, 0.5, [0.25, 1.5]),
        (float, 1, [0.5, 2.0]),
        (float, 0, [1.0]),
        (float | None, "none", [0.25, 0.5]),
        (bool, True, [False]),
        (bool, False, [True]),
        (Literal["a", "b", "c"], "b", ["a", "c"]),
        (float | Literal["best"], "best", [0.25, 0.5]),
        (float | Literal["best"], 0.5, [0.25, 1.5, "best"]),
        (str, "uniq", ["other", "another"]),
        (str, "other", ["another"]),
        (str | None, None, ["other", "another"]),
        (From, "start", ["file:other"]),
        (From, "stage:float", ["start", "file:other"]),
        (Part | None, "none", ["on"]),
        (Part | None, "on", ["none"]),
        (Part, "on", []),
        (Inner | Literal["scratch"] | None, "on", ["scratch", "none"]),
        (tuple[int, ...], [8, 4], [[8], [8, 5], [8, 4, 2]]),
        (tuple[str, ...], [], [["other"]]),
        (list[float], [1.0], [[], [0.5], [1.0, 0.25]]),
        (Mapping[int, float], {2: 0.1}, [{}, {2: 0.25}, {10: 0.5}]),
        (Any, 3, []),
    ],
)
def test_alternatives_are_other_values_of_an_annotation(kind, value, expected):
    assert alternatives(kind, value) == expected


def test_those_of_a_family_are_its_registered_names():
    assert "constant" in alternatives(Schedule, "cosine")
    assert "cosine" not in alternatives(Schedule, "cosine")


@pytest.mark.parametrize(
    ("name", "value"),
    [("bits", 2), ("lr", None), ("kind", "a"), ("step", "best"), ("quick", False), ("names", []), ("source", "start"),
     ("by_bits", None), ("choice", "on"), ("schedule", "cosine")],
)  # fmt: skip
def test_alternatives_fit_the_annotation_and_are_others(name, value):
    found = alternatives(places(function)[name], value)
    fitting = [other for other in found if other not in ("linear", "multistep", "exponential", "cyclic", "join")]
    assert fitting
    assert all(bound(function, {name: other})[name] != one(name, {name: value}) for other in fitting)


def test_a_loss_of_a_recipe_is_a_part_like_others():
    def with_loss(*, loss: CrossEntropy = CrossEntropy()): ...  # noqa: B008

    assert bound(with_loss, {"loss.weight": 0.5})["loss"] == CrossEntropy(weight=0.5)
    assert list(places(with_loss)) == ["loss", "loss.weight"]


def test_settings_as_options_are_read_back_equal():
    settings = {"weights": 2, "sharpness.rho": 0.1, "clr": "none", "strict": False, "captures": [1, 2], "start": None}
    words = as_options("--set", settings)
    assert words[:4] == ["--set", "weights=2", "--set", "sharpness.rho=0.1"]
    assert parse_settings(words[1::2]) == settings
