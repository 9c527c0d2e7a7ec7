"""Frozen dataclasses as JSON holds them, and back, equal."""

import json
import sys
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatbit import plain
from flatbit.plain import family_of, fields_of, from_plain, members, name_of_kind, name_of_type, to_plain
from flatbit.registry import Registry


class Shape(ABC):  # noqa: B024 - a family needs a base, not methods
    """A family."""


@dataclass(frozen=True)
class Circle(Shape):
    radius: float = 1.0


@dataclass(frozen=True)
class Group(Shape):
    parts: tuple[Shape, ...] = ()
    best: Shape | None = None


@dataclass(frozen=True)
class Unregistered(Shape):
    size: int = 3


SHAPES: Registry[type[Shape]] = Registry("shape", __name__)
SHAPES.add("circle", Circle)
SHAPES.add("group", Group)


@pytest.fixture(autouse=True)
def _family(monkeypatch):
    monkeypatch.setattr(plain, "_FAMILIES", dict(plain._FAMILIES))
    monkeypatch.setattr(plain, "_CODECS", dict(plain._CODECS))
    plain.add_family(Shape, SHAPES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A field of every sort."""

    count: int
    share: float
    name: str
    flag: bool = False
    nothing: None = None
    maybe: int | None = 5
    either: int | str = 0
    word: Literal["on", "off"] = "on"
    pair: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    pairs: tuple[tuple[int, Shape], ...] = ()
    listed: Sequence[int] = ()
    table: Mapping[str, float] = field(default_factory=dict)
    numbered: Mapping[int, str] = field(default_factory=dict)
    layer: str | type[nn.Module] = "*"
    shape: Shape = field(default_factory=Circle)
    inner: "Facts | None" = None
    anything: Any = None
    unseen: object = field(default=None, compare=False, metadata=plain.skipped())


SHAPE = st.deferred(lambda: st.builds(Circle, st.floats(allow_nan=False)) | GROUP)
GROUP = st.builds(Group, st.lists(SHAPE, max_size=2).map(tuple), st.none() | SHAPE)
SCALARS = st.none() | st.booleans() | st.integers() | st.text()
KEYS = st.text() | st.sampled_from(["count", "share", "name", "pair", "pairs", "shape", "kind", "class", "layer"])
JSON = st.recursive(SCALARS | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner))
FACTS = st.builds(
    Facts, count=st.integers(), share=st.floats(allow_nan=False) | st.integers(), name=st.text(), flag=st.booleans(),
    maybe=st.none() | st.integers(), either=st.integers() | st.text(), word=st.sampled_from(["on", "off"]),
    pair=st.tuples(st.integers(), st.text()), many=st.lists(st.floats(allow_nan=False)).map(tuple),
    pairs=st.lists(st.tuples(st.integers(), SHAPE), max_size=2).map(tuple), listed=st.lists(st.integers()).map(tuple),
    table=st.dictionaries(st.text(), st.floats(allow_nan=False)), numbered=st.dictionaries(st.integers(), st.text()),
    layer=st.text() | st.sampled_from([nn.Linear, nn.Conv2d]), shape=SHAPE,
)  # fmt: skip


def through(value, kind=None, **trust):
    """The value after its way through a file's text."""
    return from_plain(type(value) if kind is None else kind, json.loads(json.dumps(to_plain(value))), **trust)


# There and back


@settings(deadline=None)
@given(FACTS, st.none() | FACTS)
def test_everything_is_read_back_equal(facts, inner):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plain, "_FAMILIES", {**plain._FAMILIES, Shape: SHAPES})
        for value in (facts, Facts(count=1, share=0.5, name="", inner=inner)):
            assert through(value) == value


@settings(deadline=None)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_plain_values_are_themselves(value):
    assert to_plain(value) == value
    assert from_plain(Any, value) == value


def test_what_is_none_by_default_is_left_out_and_none_in_place_of_something_is_said():
    written = to_plain(Facts(count=1, share=0.5, name="a", maybe=None))
    assert "nothing" not in written
    assert "inner" not in written
    assert written["maybe"] is None
    assert from_plain(Facts, written).maybe is None


@dataclass(frozen=True)
class Needed:
    value: int | None


@dataclass(frozen=True)
class Made:
    value: Shape | None = field(default_factory=Circle)


@pytest.mark.parametrize("value", [Needed(None), Needed(3), Made(None), Made(), Made(Circle(2.0))])
def test_none_is_read_back_as_none_whatever_the_default(value):
    assert through(value) == value


@dataclass(frozen=True)
class Derived:
    side: int
    area: int = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "area", self.side**2)


def test_what_is_derived_is_not_written():
    assert to_plain(Derived(3)) == {"side": 3}
    assert through(Derived(3)) == Derived(3)


def test_skipped_fields_are_neither_written_nor_read():
    assert "unseen" not in to_plain(Facts(count=1, share=0.5, name="a", unseen=object()))
    assert "unseen" not in fields_of(Facts)
    with pytest.raises(ValueError, match=r"Facts has no 'unseen'"):
        from_plain(Facts, {"count": 1, "share": 0.5, "name": "a", "unseen": 1})


def test_a_member_of_a_family_says_which_one_it_is():
    group = Group((Circle(2.0),), best=Group())
    assert to_plain(group) == {
        "kind": "group",
        "parts": [{"kind": "circle", "radius": 2.0}],
        "best": {"kind": "group", "parts": []},
    }
    assert through(group, Shape) == through(group) == group


def test_a_name_alone_is_a_member_with_its_defaults():
    assert from_plain(Shape, "circle") == Circle()


def test_numbers_stay_what_they_are():
    found = through(Facts(count=1, share=2, name="a", numbered={-3: "x"}))
    assert type(found.share) is int
    assert found.numbered == {-3: "x"}


def test_a_codec_writes_and_reads_its_type():
    plain.add_codec(complex, str, complex)
    assert plain.has_codec(complex)
    assert through(1 + 2j) == 1 + 2j
    with pytest.raises(ValueError, match="where="):
        from_plain(complex, "no number", "where")


@pytest.mark.parametrize(
    ("kind", "value"), [(tuple, (1, "a")), (list, [1, "a"]), (dict, {"a": 1}), (Mapping, {"a": [1]}), (Sequence, (1,))]
)
def test_bare_containers_hold_anything(kind, value):
    assert from_plain(kind, json.loads(json.dumps(value))) == value


# What cannot be written


class Plain(Shape):
    """No dataclass."""


@pytest.mark.parametrize("value", [print, lambda: 1, object(), Plain(), {1, 2}, b"bytes", complex(1)])
def test_what_has_no_name_is_refused_with_its_place(value):
    with pytest.raises(ValueError, match=r"^parts\[1\]\.a: .* has no name that a record could hold: expected numbers"):
        to_plain({"parts": [1, {"a": value}]})
    with pytest.raises(ValueError, match=r"^value: .* has no name"):
        to_plain(value)


def test_a_class_of_a_functions_is_refused():
    @dataclass(frozen=True)
    class Local(Shape):
        pass

    with pytest.raises(ValueError, match=r"best: .*Local of .* has no name that a record could hold: register it, or"):
        to_plain(Group(best=Local()))


def test_a_class_of_the_script_itself_is_refused(monkeypatch):
    """Another process has another __main__."""
    monkeypatch.setattr(Unregistered, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Unregistered", Unregistered, raising=False)
    with pytest.raises(ValueError, match="Unregistered of __main__ has no name that a record could hold: register it"):
        to_plain(Unregistered())


def test_a_class_whose_name_means_another_now_is_refused(monkeypatch):
    monkeypatch.setattr(f"{__name__}.Unregistered", Circle)
    with pytest.raises(ValueError, match="has no name that a record could hold"):
        to_plain(Group((UNREGISTERED(),)))


UNREGISTERED = Unregistered


class OwnLinear(nn.Linear):
    """A user's layer, that can be imported."""


def test_layer_classes_have_names_and_no_others():
    assert name_of_type(nn.Linear) == "nn.Linear"
    assert to_plain(nn.Linear) == {"class": "nn.Linear"}
    assert from_plain(type, {"class": "nn.Linear"}) is nn.Linear

    class Linear(nn.Linear):
        pass

    with pytest.raises(ValueError, match=r"^here: .*Linear of .* has no name that a record could hold"):
        to_plain(Linear, "here")
    for other in (int, Circle):
        with pytest.raises(ValueError, match=f"^here: {other.__name__} is no layer class"):
            to_plain(other, "here")


def test_a_users_layer_class_is_imported_only_where_it_is_trusted():
    written = to_plain(OwnLinear)
    assert written == {"class": f"{__name__}:OwnLinear"}
    with pytest.raises(ValueError, match=r"wants to import .*if you trust it"):
        from_plain(type[nn.Module], written)
    assert from_plain(type[nn.Module], written, trust=True) is OwnLinear
    with pytest.raises(ValueError, match="a layer class"):
        from_plain(type, {"class": f"{__name__}:Circle"}, trust=True)


# What cannot be read


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, 1.5, "a whole number"), (int, True, "a whole number"), (int, "1", "a whole number"), (int, None, "a w"),
        (float, "1", "a number"), (float, True, "a number"), (bool, 1, "true or false"), (str, 1, "text"),
        (type(None), 0, "none"), (Literal["a", "b"], "c", "a or b"), (Literal[1, 2], True, "1 or 2"),
        (Literal[1, 2], 1.0, "1 or 2"), (Literal[True], 1, "True"), (Literal["a"], ["a"], "a"),
        (tuple[int, ...], 3, "a list"), (tuple[int, ...], "ab", "a list"), (tuple[int, str], [1], "a list of 2"),
        (tuple[int, ...], [1, "a"], r"\[1\]='a': expected a whole number"), (Sequence[int], {"a": 1}, "a list"),
        (Mapping[str, int], [1], "a mapping"), (Mapping[str, int], {"a": "b"}, r"\.a='b': expected a whole number"),
        (Mapping[int, int], {"a": 1}, "a whole number"), (dict[int, int], {"1.5": 1}, "a whole number"),
        (int | str, 1.5, "a whole number; or .*text"), (int | None, "x", "a whole number"),
        (type[nn.Module], "nn.Linear", "a layer class"), (type[nn.Module], {"class": "nn.Liner"}, "a layer class"),
        (type[nn.Module], {"class": "os.abort"}, "a layer class"), (type[nn.Module], {"class": ["nn"]}, "a layer"),
        (type[nn.Module], {"class": "nn.functional"}, "a layer class"),
        (Shape, 3, "a shape: known: circle, group"), (Shape, {"radius": 1.0}, "a shape: known"), (Shape, None, "a s"),
        (Shape, {"kind": 3}, "a shape: known"), (Shape, "circel", r"unknown shape 'circel': did you mean circle\?"),
        (Circle, [1], "a mapping of radius"), (Circle, {"kind": "group"}, r"place\.kind='group': expected circle"),
        (Needed, [1], "a mapping of value"), (Needed, None, "a mapping of value"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_where_what_and_what_was_expected(kind, value, words):
    with pytest.raises(ValueError, match=words) as caught:
        from_plain(kind, value, "place")
    assert "place" in str(caught.value)


def test_fields_that_are_unknown_or_missing_are_named():
    with pytest.raises(ValueError, match=r"^a\.b has no 'cuont': did you mean count\?"):
        from_plain(Facts, {"cuont": 1}, "a.b")
    with pytest.raises(ValueError, match=r"^a lacks share, name: say what it is"):
        from_plain(Facts, {"count": 1}, "a")
    with pytest.raises(ValueError, match=r"^Facts lacks count, share, name"):
        from_plain(Facts, {})
    assert from_plain(Needed, {}) == Needed(None)


@dataclass(frozen=True)
class Checked:
    """A fact that looks at itself."""

    size: int

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"size={self.size}: expected 0 or more")


def test_what_a_class_refuses_itself_it_refuses_here():
    with pytest.raises(ValueError, match=r"^size=-1: expected 0 or more"):
        from_plain(Checked, {"size": -1}, "place")


@settings(deadline=None)
@given(JSON)
def test_whatever_comes_is_read_or_refused_as_a_value(value):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plain, "_FAMILIES", {**plain._FAMILIES, Shape: SHAPES})
        for kind in (Facts, Shape, type[nn.Module], Mapping[int, float], tuple[Shape, ...] | int):
            try:
                from_plain(kind, value)
            except ValueError as error:
                assert str(error)  # noqa: PT017


# Imports


def test_a_class_that_is_not_registered_is_written_by_its_module_and_imported_with_trust():
    written = to_plain(Group((Unregistered(4),)))
    assert written["parts"][0] == {"kind": f"{__name__}:Unregistered", "size": 4}
    with pytest.raises(
        ValueError, match=rf"^g\.parts\[0\]: wants to import '{__name__}:Unregistered': if you trust it"
    ):
        from_plain(Shape, written, "g")
    assert from_plain(Shape, written, trust=True) == Group((Unregistered(4),))


def test_nothing_is_imported_without_trust(tmp_path, monkeypatch):
    (tmp_path / "plain_plugin.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    for text in ("plain_plugin:Mine", "plain_plugin:", ":Mine", ":"):
        with pytest.raises(ValueError, match=r"wants to import|expected"):
            from_plain(Shape, {"kind": text})
    assert "plain_plugin" not in sys.modules


@pytest.mark.parametrize("name", ["os:abort", f"{__name__}:Needed", f"{__name__}:SHAPES", "collections:OrderedDict"])
def test_what_is_trusted_is_still_of_the_family(name):
    with pytest.raises(ValueError, match=r"place=.*: expected a shape"):
        from_plain(Shape, {"kind": name}, "place", trust=True)


@pytest.mark.parametrize("name", ["no_such_module:A", f"{__name__}:Circel"])
def test_what_cannot_be_imported_is_said(name):
    with pytest.raises(ValueError, match=r"no module|has no 'Circel'"):
        from_plain(Shape, {"kind": name}, trust=True)


# Questions


def test_alternatives_fields_and_families():
    assert members(int | None) == (int, type(None))
    assert members(int) == (int,)
    assert fields_of(Group) == {"parts": tuple[Shape, ...], "best": Shape | None}
    assert family_of(Circle) is SHAPES
    assert family_of(Facts) is None
    assert name_of_kind(Circle, SHAPES) == "circle"
    assert name_of_kind(Unregistered, SHAPES) == f"{__name__}:Unregistered"


def test_annotations_that_cannot_be_resolved_are_a_value_error():
    @dataclass(frozen=True)
    class Odd:
        value: "Nowhere"  # noqa: F821

    with pytest.raises(ValueError, match=r"Odd: its annotations cannot be read \(name 'Nowhere' is not defined\)"):
        from_plain(Odd, {"value": 1})
