"""Pickles of benchmarks as data: of all that a pickle can say what a list of images and truths needs, and no room for more than it holds.

Known are numbers, bytes, text, lists, tuples and stand-ins for byte arrays. Neither numpy nor anything else is called by the file.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from typing import Any, Literal

import numpy as np

from synthbench.data import pixels

# Mappings and sets are not among them: their keys are hashed, and (x, x) of (x, x) of ... hashes for years.
OPCODES = """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND APPENDS
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
""".split()  # noqa: SIM905


def pairs(data: bytes) -> tuple[list[bytes], list[bool], bool]:
    """(encoded images, same, whether the images were pixels) of a pickle; pixels become PNG files.

    Raises what a damaged or hostile one leads to, UnpicklingError when it is told in words.
    """
    images, same = _Unpickler(data).load()
    listed = _listed(images)
    of_pixels = any(isinstance(item, _Array) and len(item.shape) > 2 for item in (images, *listed))
    return [_image_bytes(item) for item in listed], [_truth(value) for value in _listed(same)], of_pixels


def _listed(values: Any) -> Any:
    """A list, or an array for one."""
    if isinstance(values, _Array) and len(values.shape) == 4 and values.width == 1:  # pixels of all images
        size = math.prod(values.shape[1:])
        return [_pixels(values.raw[at * size : (at + 1) * size], values.shape[1:]) for at in range(values.shape[0])]
    return values.values() if isinstance(values, _Array) else values


def _pixels(raw: bytes, shape: tuple[int, ...]) -> bytes:
    """An image file, PNG, of the RGB pixels (H, W, 3)."""
    if shape[2] != 3 or not raw:
        raise pickle.UnpicklingError(f"an image of {' x '.join(map(str, shape))}; pixels are height x width x 3")
    return pixels.encode(np.frombuffer(raw, np.uint8).reshape(shape))


def _image_bytes(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, _Array) and item.items is None and item.width == 1:
        if len(item.shape) == 3:
            return _pixels(item.raw, item.shape)
        if len(item.shape) <= 2:
            return item.raw
    raise pickle.UnpicklingError(f"an image is a {type(item).__name__}, not bytes")


def _truth(value: Any) -> bool:
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    shown = value if isinstance(value, int) and abs(value) < 10**6 else f"a {type(value).__name__}"  # repr of (x, x) of (x, x) is endless
    raise pickle.UnpicklingError(f"same or not is {shown}")


class _Array:
    """Stands in for a numpy array: keeps the raw bytes, or the list of an array of objects; runs nothing."""

    raw: bytes = b""
    items: list[Any] | None = None  # of an array of objects
    width = 1  # bytes of a number
    big = False  # the order of these
    shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, raw = state
        if not isinstance(kind, _Kind) or len(shape) > 4 or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise pickle.UnpicklingError("an array that is not of bytes")
        self.shape = tuple(shape)
        if kind.code == "O8" and isinstance(raw, list) and len(shape) == 1 and len(raw) == shape[0]:
            self.items = raw
        elif kind.code in _WIDTHS and isinstance(raw, bytes) and len(raw) == _WIDTHS[kind.code] * math.prod(shape):
            self.raw, self.width, self.big = raw, _WIDTHS[kind.code], kind.big
        else:
            raise pickle.UnpicklingError("an array that is neither of bytes nor of whole numbers")

    def values(self) -> list[Any]:
        """Of a list of truths."""
        if self.items is not None:
            return self.items
        order: Literal["big", "little"] = "big" if self.big else "little"
        return [int.from_bytes(self.raw[at : at + self.width], order) for at in range(0, len(self.raw), self.width)]


_WIDTHS = {"u1": 1, "b1": 1, "i1": 1, "i2": 2, "u2": 2, "i4": 4, "u4": 4, "i8": 8, "u8": 8}  # bytes of bool and whole numbers


class _Kind:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        if not isinstance(code, (str, bytes)) or len(code) > 9:
            raise pickle.UnpicklingError("an array of no known kind")
        self.code = (code.decode("ascii", "replace") if isinstance(code, bytes) else code).lstrip("|<>=")
        self.big = False

    def __setstate__(self, state: Any) -> None:
        self.big = isinstance(state, tuple) and len(state) > 1 and state[1] in (">", b">")


def _frombuffer(raw: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, False, raw))
    return array


def _scalar(kind: Any, raw: Any = b"") -> bool:
    if not isinstance(kind, _Kind) or not isinstance(raw, bytes) or len(raw) > 8:
        raise pickle.UnpicklingError("a number that is none")
    return any(raw)


def _bytes(value: Any = b"", *rest: Any) -> bytes:
    if not isinstance(value, bytes) or rest:
        raise pickle.UnpicklingError("bytes made of something else")
    return value


_ALLOWED: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Kind}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[_core + ".multiarray", "_reconstruct"] = lambda *_: _Array()
    _ALLOWED[_core + ".multiarray", "scalar"] = _scalar
    _ALLOWED[_core + ".numeric", "_frombuffer"] = _frombuffer
_ALLOWED |= {(module, name): _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")}


class _Known(dict[int, Any]):
    def __missing__(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"it uses opcode {code}, which a list of images has no use for")


class _Unpickler(pickle._Unpickler):
    """The one written in Python: the C one gives a file of 9 bytes 32 GB of memory (the memo is an array there, a dict here)."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.room = len(data)  # for what `_encode` makes: each text of the file once

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        found = _ALLOWED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module[:80]}.{name[:80]}, which a list of images has no use for")
        # a fresh one each time: a pickle may set attributes of what it was given, and must not reach the next file that way
        return type(found.__name__, (found,), {}) if isinstance(found, type) else lambda *args: found(*args)

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1"):
            raise pickle.UnpicklingError("text in an unknown encoding")
        self.room -= len(text)
        if self.room < 0:
            raise pickle.UnpicklingError("it makes more bytes than it has")
        return text.encode("latin-1")

    def _bytearray8(self) -> None:
        """As bytes; the original makes room for as many as the file claims, and then looks whether they are there."""
        self.append(self.read(struct.unpack("<Q", self.read(8))[0]))  # type: ignore[attr-defined]

    dispatch = _Known({getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in OPCODES})
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray8
