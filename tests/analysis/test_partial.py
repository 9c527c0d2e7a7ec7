import json

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.analysis.partial import FILE, digest_of, digest_of_samples, measured_each

KEY = {"model": "abc", "seed": 0}


class Stop(BaseException):
    """As a process ends."""


class Squares:
    """Squares of points; counts what it measured, and ends after so many."""

    def __init__(self, most=10):
        self.most, self.asked = most, []

    def __call__(self, point):
        if len(self.asked) == self.most:
            raise Stop
        self.asked.append(point)
        return [point**2, 0.1 * point]


def interrupted(folder, most=3, key=KEY):
    with pytest.raises(Stop):
        measured_each([0, 1, 2, 3, 4], Squares(most), "squares", folder=folder, key=key)


WHOLE = [[n * n, 0.1 * n] for n in range(5)]


def test_without_a_folder_all_is_measured():
    assert measured_each([0, 1, 2, 3, 4], Squares(), "squares") == WHOLE


def test_it_goes_on_where_it_was_interrupted_and_leaves_no_file(tmp_path):
    interrupted(tmp_path / "new")
    again = Squares()
    assert measured_each([0, 1, 2, 3, 4], again, "squares", folder=tmp_path / "new", key=KEY) == WHOLE
    assert again.asked == [3, 4]
    assert not list((tmp_path / "new").iterdir())


def test_every_point_is_in_the_file_before_the_next_is_measured(tmp_path):
    """A process that is killed closes no file."""

    def measure(point):
        assert len((tmp_path / FILE).read_text().splitlines()) == 1 + point
        return point

    measured_each([0, 1, 2], measure, "points", folder=tmp_path)


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    interrupted(tmp_path)
    with (tmp_path / FILE).open("a") as file:
        file.write("[9, 0.")
    again = Squares(1)
    with pytest.raises(Stop):
        measured_each([0, 1, 2, 3, 4], again, "squares", folder=tmp_path, key=KEY)
    assert again.asked == [3]
    assert len((tmp_path / FILE).read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("key", "points", "says"),
    [
        ({"model": "abd", "seed": 0}, 5, "model was abc, is abd"),
        ({"model": "abc"}, 5, "seed was 0, is None"),
        (KEY, 4, "points was 5, is 4"),
    ],
)
def test_a_part_of_another_result_is_refused_and_left(tmp_path, key, points, says):
    interrupted(tmp_path)
    before = (tmp_path / FILE).read_text()
    with pytest.raises(ValueError, match=f"is part of another result: {says}: remove it to begin anew"):
        measured_each(range(points), Squares(), "squares", folder=tmp_path, key=key)
    assert (tmp_path / FILE).read_text() == before


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(KEY) + "\n{\n")
    with pytest.raises(ValueError, match=r"partial\.jsonl is damaged .* remove it to begin anew"):
        measured_each([0], Squares(), "squares", folder=tmp_path, key=KEY)


def test_what_is_not_finite_comes_back(tmp_path):
    values = iter([float("inf"), Stop])

    def measure(point):
        if (value := next(values)) is Stop:
            raise Stop
        return value

    with pytest.raises(Stop):
        measured_each([0, 1], measure, "squares", folder=tmp_path)
    assert measured_each([0, 1], lambda point: 2.0, "squares", folder=tmp_path) == [float("inf"), 2.0]


def test_the_digest_follows_every_tensor_and_spec():
    def made(bits=2, seed=0):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
        fb.quantize_(model, fb.policy("sqwa", weights=bits))
        fb.calibrate_(model, [])
        return model

    assert digest_of(made()) == digest_of(made())
    moved = made()
    moved[1].running_mean += 1e-6
    assert len({digest_of(model) for model in (made(), made(bits=3), made(seed=1), moved)}) == 4
    assert digest_of(moved.bfloat16()) != digest_of(made())
    x, y = torch.zeros(4, 1), torch.zeros(4, dtype=torch.bool)
    assert digest_of_samples([(x, y)]) == digest_of_samples([(x.clone(), y)]) != digest_of_samples([(x, ~y)])
