import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from flatbit.analysis.saved import FILE, read_result, write_result


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Found:
    parts: tuple[Part, ...]
    number: float | None
    tensor: torch.Tensor


VALUES = np.array([[1 / 3, np.nan, -np.inf]], dtype=np.float32)


def test_it_comes_back_equal(tmp_path):
    part = Part(name="a", values=VALUES)
    found = Found(parts=(part,), number=None, tensor=torch.tensor([[True, False]]))
    assert write_result(tmp_path / "new", found, title="of a run") == tmp_path / "new" / FILE
    saved = read_result(tmp_path / "new", Found)
    assert saved.title == "of a run"
    (back,) = saved.result.parts
    assert back.name == "a"
    assert back.values.dtype == np.float32
    np.testing.assert_array_equal(back.values, VALUES)
    assert (saved.result.number, saved.result.tensor.tolist()) == (None, [[True, False]])


@pytest.mark.parametrize("array", [np.zeros((0, 3), dtype=np.uint8), np.array(2), np.arange(6).reshape(1, 2, 3)])
def test_arrays_of_any_shape(tmp_path, array):
    write_result(tmp_path, Part(name="", values=array), title="")
    back = read_result(tmp_path, Part).result.values
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


def test_a_field_that_no_file_holds_leaves_none(tmp_path):
    with pytest.raises(ValueError, match="has no name that a record could hold"):
        write_result(tmp_path, Part(name="a", values=object()), title="")
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_or_of_another_class_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"result\.json does not exist: nothing was analyzed there yet"):
        read_result(tmp_path, Part)
    write_result(tmp_path, Part(name="a", values=VALUES), title="")
    with pytest.raises(ValueError, match=r"is not what write_result left for Found .*: analyze again"):
        read_result(tmp_path, Found)
    for text in ("{", "[]", json.dumps({"result": {}})):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ValueError, match="analyze again"):
            read_result(tmp_path, Part)
