"""Pickles of plain values and numpy arrays, read without running anything they name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np

NUMBERS = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"f4", "f8"}


def load_plain_pickle(path: str | Path) -> Any:
    """What a pickle holds, where that is numbers, strings, bytes, lists, tuples, dicts and numpy arrays of numbers.

    Strings of Python 2 come as bytes. Nothing that the file names is imported: the few names by which
    numpy spells an array stand for functions of this module.

    Raises:
        ValueError: the file is no pickle, is cut off, or asks for anything else to be made; by path.
    """
    try:
        with Path(path).open("rb") as file:
            return _unwrapped(_Unpickler(file, encoding="bytes").load())
    except _RefusedError as error:
        raise ValueError(f"{path} asks for {error}: it is more than plain arrays, and was not read") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a damaged pickle fails in whatever its bytes happen to mean
        raise ValueError(f"{path} is no pickle, or is cut off or damaged ({error}): get the file again") from error


class _RefusedError(Exception):
    """A pickle named something that is not plain data."""


@final
class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return "numpy.ndarray"
        make = MAKERS.get((module, name))
        if make is None:
            raise _RefusedError(f"{module}.{name}")
        return lambda *arguments: make(*arguments)  # its own: a pickle may set attributes of what it names


@final
class _Dtype:
    """A dtype of numbers; its state says which byte comes first."""

    __slots__ = ("dtype",)

    def __init__(self, code: str | bytes, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if code.lstrip("|<=") not in NUMBERS:
            raise _RefusedError(f"an array of dtype {code!r}")
        self.dtype = np.dtype(code.lstrip("|<="))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("|", "<", b"|", b"<"):
            raise _RefusedError(f"byte order {state[1]!r}")


@final
class _Array:
    """An array in the making: numpy's pickles make an empty one and then give it shape, dtype and bytes."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    """How protocol 5 spells an array."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _encode(text: str, encoding: str | bytes) -> bytes:
    """How protocol 2 of Python 3 spells bytes."""
    if encoding not in ("latin1", b"latin1"):
        raise _RefusedError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 spells empty bytes."""
    return b""


MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("numpy", "dtype"): _Dtype,
}
for _core in ("numpy.core", "numpy._core"):
    MAKERS[f"{_core}.multiarray", "_reconstruct"] = _Array
    MAKERS[f"{_core}.numeric", "_frombuffer"] = _from_buffer


def _unwrapped(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _unwrapped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unwrapped(item) for item in value)
    return value
