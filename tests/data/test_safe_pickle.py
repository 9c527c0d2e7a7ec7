import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from flatbit.data.safe_pickle import load_plain_pickle

ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def written(tmp_path, content, protocol=2):
    path = tmp_path / "file.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array", [ARRAY, np.asfortranarray(ARRAY), ARRAY.astype(np.float32), np.arange(5), np.empty((0, 3))]
)
def test_plain_content_comes_back(tmp_path, protocol, array):
    content = {b"data": array, "names": ["a", b"b", 3, 2.5, None, True], "nested": ([array],)}
    found = load_plain_pickle(written(tmp_path, content, protocol))
    assert found["names"] == content["names"]
    for read in (found[b"data"], found["nested"][0][0]):
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)


def test_a_file_of_python_2_and_old_numpy(tmp_path):
    # {'labels': [6], 'data': np.uint8 [[1, 2]]} as Python 2.7 with numpy 1 wrote it: protocol 2, byte strings.
    content = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03K\x06aU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
        b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01"
        b"\x87Rq\t(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\x02tbu."
    )
    found = load_plain_pickle(written(tmp_path, content))
    assert found[b"labels"] == [6]
    assert found[b"data"].tolist() == [[1, 2]]


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_file_does_not_run(tmp_path, protocol):
    target = tmp_path / "ran"
    for call in ((os.system, f"touch {target}"), (eval, f"open({str(target)!r}, 'w')"), (Path.touch, target)):
        path = written(tmp_path, {b"data": ARRAY, b"labels": [Hostile(*call)]}, protocol)
        with pytest.raises(ValueError, match=r"file\.pkl asks for .*: it is more than plain arrays, and was not read"):
            load_plain_pickle(path)
        assert not target.exists()
    pickle.loads(path.read_bytes())  # the very file does run where it is let
    assert target.exists()


@pytest.mark.parametrize(
    "content",
    [
        np.array([{}], dtype=object),
        np.array(["text"]),
        np.dtype([("a", "u1")]),
        np.array([1], dtype=">i4"),
        np.float64,
        np.ndarray,
    ],
    ids=["objects", "strings", "records", "big endian", "a type", "the array type"],
)
def test_other_things_of_numpy_are_refused_or_inert(tmp_path, content):
    path = written(tmp_path, content)
    if content is np.ndarray:
        assert load_plain_pickle(path) == "numpy.ndarray"
        return
    with pytest.raises(ValueError, match=r"file\.pkl"):
        load_plain_pickle(path)


def test_attributes_cannot_be_set_on_what_makes_arrays(tmp_path):
    # GLOBAL numpy.dtype, then BUILD with (None, {"__defaults__": 1, "evil": 2}) on what that name gave
    path = written(tmp_path, b"\x80\x02cnumpy\ndtype\nN}X\x04\x00\x00\x00evilK\x02s\x86b.")
    load_plain_pickle(path)
    from flatbit.data import safe_pickle

    assert not any(hasattr(make, "evil") for make in safe_pickle.MAKERS.values())


def test_codecs_are_latin1_only(tmp_path):
    path = written(tmp_path, b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(ValueError, match="asks for the encoding 'rot13'"):
        load_plain_pickle(path)


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_file_that_is_cut_off_is_named(tmp_path, kept):
    whole = pickle.dumps({b"data": ARRAY}, protocol=2)
    with pytest.raises(ValueError, match=r"file\.pkl is no pickle, or is cut off or damaged"):
        load_plain_pickle(written(tmp_path, whole[:kept]))


def test_an_array_with_fewer_bytes_than_its_shape_is_an_error(tmp_path):
    content = pickle.dumps(ARRAY, protocol=3).replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86")
    with pytest.raises(ValueError, match="damaged"):
        load_plain_pickle(written(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pkl cannot be read"):
        load_plain_pickle(tmp_path / "none.pkl")
