import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from rich.console import Console

from flatbit.cli.findings import plain_values, report


@dataclass(frozen=True)
class Part:
    name: str
    share: float | None
    settled: bool = True

    @property
    def letters(self):
        return len(self.name)


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    surface: np.ndarray
    by_name: dict[str, int]


WHOLE = Whole(parts=(Part("[a]", 1 / 3), Part("bc", None)), surface=np.eye(2), by_name={"x": 1})


def printed(result):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report(result, "what [was] seen"))
    return console.export_text()


def test_fields_and_properties_are_plain():
    assert plain_values(WHOLE) == {
        "parts": [
            {"name": "[a]", "share": 1 / 3, "settled": True, "letters": 3},
            {"name": "bc", "share": None, "settled": True, "letters": 2},
        ],
        "surface": [[1, 0], [0, 1]],
        "by_name": {"x": 1},
    }
    assert plain_values(torch.tensor([1, 2])) == [1, 2]


def test_a_row_of_every_part():
    text = printed(WHOLE)
    assert "what [was] seen" in text
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line[:1] == "│"]
    assert rows == [["[a]", "0.3333", "yes", "3"], ["bc", "-", "yes", "2"]]


@pytest.mark.parametrize(
    ("value", "cell"),
    [(np.float64(2), "2"), ({"a": 1, "b": 2.5}, "a: 1, b: 2.5"), ((1, 2), "1, 2"), (True, "yes")],
)
def test_small_values_stand_in_the_table(value, cell):
    assert cell in printed(Part("a", value))


def test_large_values_are_named():
    assert "--json tells also: share" in printed(Part("a", np.arange(100)))
    assert "--json tells also: share" in printed(Part("a", tuple(range(7))))
