import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatbit import plain
from flatbit.reference import AVERAGE, START, From

NAMES = st.from_regex(r"\w[\w.+-]{0,12}", fullmatch=True).filter(lambda name: not name.endswith(AVERAGE))
PATHS = st.text(min_size=1)
REFERENCES = st.one_of(
    st.just(From.start()), st.builds(From.stage, NAMES, average=st.booleans()), st.builds(From.file, PATHS)
)

SPELLINGS = {
    "start": From.start(),
    "stage:float": From.stage("float"),
    "stage:retrain.average": From.stage("retrain", average=True),
    "stage:a.b-c+d": From.stage("a.b-c+d"),
    "file:runs/mine": From.file("runs/mine"),
    "file:C:\\net.safetensors": From.file("C:\\net.safetensors"),
    "file:stage:float": From.file("stage:float"),
    "file:net.average": From.file("net.average"),
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_is_read_and_written(text):
    assert From.parse(text) == SPELLINGS[text]
    assert str(SPELLINGS[text]) == text


@given(REFERENCES)
def test_what_is_written_is_read_back_equal(reference):
    assert From.parse(str(reference)) == reference
    assert plain.from_plain(From, plain.to_plain(reference)) == reference
    assert pickle.loads(pickle.dumps(reference)) == reference


@given(st.text())
def test_whatever_is_read_is_written_as_it_was(text):
    try:
        reference = From.parse(text)
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017
    else:
        assert str(reference) == text


@given(REFERENCES, REFERENCES)
def test_two_are_equal_where_they_are_spelled_alike(one, other):
    assert (one == other) == (str(one) == str(other))
    if one == other:
        assert hash(one) == hash(other)


@pytest.mark.parametrize(
    "text",
    ["", "Start", "start:", "start:a", "stage", "stage:", "file", "file:", "float", "step:a", "stage:.average", 3],
)
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        From.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "stage"}, {"kind": "file"}, {"kind": "start", "name": "a"}, {"kind": "step", "name": "a"},
        {"kind": "start", "average": True}, {"kind": "file", "name": "a", "average": True},
        {"kind": "stage", "name": 3}, {"kind": "file", "name": Path("a")}, {"kind": None},
    ],
)  # fmt: skip
def test_parts_that_the_kind_does_not_have_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected|only a stage has an average"):
        From(**wrong)


def test_the_average_of_a_stage_is_no_part_of_its_name():
    with pytest.raises(ValueError, match=r"From\.stage\('retrain', average=True\)"):
        From.stage("retrain.average")


def test_a_file_may_be_a_path():
    assert From.file(Path("runs") / "mine") == From.file(str(Path("runs") / "mine"))


def test_start_is_the_start():
    assert From() == From.start() == START


def test_errors_in_records_say_where():
    with pytest.raises(
        ValueError, match=r"^stages\[0\]\.start='float': expected start, stage:NAME, stage:NAME\.average"
    ):
        plain.from_plain(From, "float", "stages[0].start")
