"""Pickled arrays, read without running anything they contain.

A pickle is a program for a small stack machine. Here that program may build numbers, text, lists, tuples,
dicts and numeric arrays. It names functions of numpy but never reaches them: each name that is allowed stands for a
function below, which makes plain data or refuses.
"""

import io
import math
import os
import pickle
import re
import struct
from collections import defaultdict
from enum import Enum
from typing import Any, ClassVar, NoReturn

import numpy as np

from hessianfree.io.files import FileFormatError, read_bytes

_EXPECTED = "a pickle of numeric arrays, numbers, text, lists, tuples and dicts"
_REMEDY = "save the data again as plain numeric arrays, and load only files that you trust"
_MAX_DEPTH = 100  # far beyond real data, far below Python's recursion limit

# A letter for bool, int, uint, float, complex, bytes or text, and a size: no objects, no records, no dates.
_DTYPE = re.compile(r"[<>|=]?(\?|[biufcSU][1-9][0-9]{0,8})")
_KEYS = (str, bytes, int, float, type(None), np.generic)
_LEAVES = (*_KEYS, complex, bytearray, np.ndarray, np.dtype)


class _RefusedError(Exception):
    """The pickle holds something that is not allowed."""


class _Global(Enum):
    """The names that a pickle may mention; each stands for a function of this file, not for the one it names."""

    BLANK_ARRAY = "numpy's _reconstruct"
    SCALAR = "numpy's scalar"
    FROM_BUFFER = "numpy's _frombuffer"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"
    DEFAULTDICT = "collections.defaultdict"
    LIST = "list"
    BYTES = "bytes"
    COMPLEX = "complex"


_BUILTINS = (_Global.LIST, _Global.BYTES, _Global.COMPLEX)
_GLOBALS = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Global.BLANK_ARRAY for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Global.SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Global.FROM_BUFFER for core in ("core", "_core")},
    ("numpy", "ndarray"): _Global.NDARRAY,
    ("numpy", "dtype"): _Global.DTYPE,
    ("_codecs", "encode"): _Global.ENCODE,
    ("collections", "defaultdict"): _Global.DEFAULTDICT,
    **{(python, kind.value): kind for python in ("builtins", "__builtin__") for kind in _BUILTINS},
}


def load_arrays(path: str | os.PathLike[str], *, max_bytes: int = 1 << 31) -> Any:
    """Read arrays from a pickle, plain or gzipped, of Python 2 or 3, without running anything it contains.

    A pickle may hold numpy arrays, scalars and dtypes of numbers and text, and Python's numbers, text, bytes, None,
    lists, tuples, dicts and `collections.defaultdict` (with `list` or nothing as its factory).
    Python 2's `str` is read as latin-1 text.

    Args:
        path: the file; gzip is recognised by its first bytes, whatever the name.
        max_bytes: the largest decompressed size to accept, in bytes. Default: 2 GiB.

    Returns:
        What was pickled.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileFormatError: if the file is truncated, larger than `max_bytes`, not a pickle, or holds anything else.

    Example:
        >>> import os, pickle, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "series.pkl")
        >>> with open(path, "wb") as file:
        ...     pickle.dump({"damping (log)": [1.0, 0.5]}, file)
        >>> load_arrays(path)
        {'damping (log)': [1.0, 0.5]}
    """
    data = read_bytes(path, max_bytes=max_bytes, expected=_EXPECTED)
    try:
        return _Machine(data).run()
    except _RefusedError as refusal:
        raise FileFormatError(path, str(refusal), _EXPECTED, _REMEDY) from None
    except EOFError:
        found = f"a pickle cut short after {len(data):,} bytes"
        raise FileFormatError(path, found, _EXPECTED, "copy or download the file again") from None
    except Exception as error:  # hostile bytes can break the stack machine in any way
        told = "" if isinstance(error, IndexError) else f" ({type(error).__name__}: {str(error)[:80]})"
        found = f"no intact pickle, starting with {data[:12]!r}{told}"
        raise FileFormatError(path, found, _EXPECTED, "check the path, or copy the file again") from None


def _refuse(found: str) -> NoReturn:
    raise _RefusedError(found)


def _shown(value: object) -> str:
    # The text of a container can be endless: 60 nested pairs of the same tuple take 2**60 words.
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


class _Opcodes(dict[int, Any]):
    """The pickle instructions that are allowed; any other is rejected by name."""

    def __missing__(self, code: int) -> NoReturn:
        if code not in pickle._Unpickler.dispatch:
            raise pickle.UnpicklingError(f"{bytes([code])!r} is not a pickle instruction")
        _refuse(f"the pickle instruction {bytes([code])!r}, which makes other objects")


class _Machine(pickle._Unpickler):
    """The stack machine of one pickle.

    It extends the unpickler written in Python, because small files break the one written in C before its
    `find_class` is ever asked: a memo index of 2**31 takes 32 GiB, and a dict key of deeply nested tuples
    overflows the C stack when it is hashed.
    """

    dispatch: ClassVar[dict[int, Any]] = _Opcodes()
    stack: list[Any]
    pop_mark: Any
    read: Any

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        super().__init__(self._file, encoding="latin1")
        # Two copies of every byte are all an honest file needs: text -> bytes -> array.
        self._room = 2 * len(data)
        self._blank: dict[int, np.ndarray[Any, Any]] = {}  # arrays still without contents, by id
        self._makers: dict[_Global, Any] = {
            _Global.BLANK_ARRAY: self._make_blank_array,
            _Global.SCALAR: self._make_scalar,
            _Global.FROM_BUFFER: self._make_from_buffer,
            _Global.DTYPE: _make_dtype,
            _Global.ENCODE: self._make_encoded,
            _Global.DEFAULTDICT: _make_defaultdict,
            _Global.BYTES: lambda: b"",  # Python 3 writes bytes() for these, and other bytes by ENCODE
            _Global.COMPLEX: lambda real, imaginary: complex(float(real), float(imaginary)),
        }

    def run(self) -> Any:
        """Run the whole pickle; return what it built, once that is known to be plain data."""
        result = self.load()
        if self._blank:
            _refuse("an array without contents")
        if self._file.read(1):
            _refuse("further bytes after the end of the pickle")
        _check_plain(result, 0, {})
        return result

    def find_class(self, module: str, name: str) -> _Global:
        """Return the stand-in for an admitted name; nothing is imported."""
        if (module, name) not in _GLOBALS:
            _refuse(f"a reference to {module[:80]}.{name[:80]}, which could run code")
        return _GLOBALS[module, name]

    def _spend(self, n_bytes: int) -> None:
        # Every copy is charged: a file may name one block of bytes a million times over.
        self._room -= n_bytes
        if self._room < 0:
            _refuse("arrays that add up to more bytes than the file holds")

    def _make_blank_array(self, kind: object, shape: object, letter: object) -> Any:
        if kind is not _Global.NDARRAY or shape != (0,):
            _refuse("an array that starts otherwise than as an empty numpy.ndarray")
        array = np.empty(0)
        self._blank[id(array)] = array
        return array

    def _make_scalar(self, dtype: Any, contents: Any) -> Any:
        return np.frombuffer(self._checked(contents, (), dtype), dtype=dtype, count=1)[0]

    def _make_from_buffer(self, contents: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
        flat = np.frombuffer(self._checked(contents, shape, dtype), dtype=np.dtype(dtype.str)).copy()
        array = flat.reshape(shape, order="F" if order == "F" else "C")
        return array.transpose(axes) if order == "K" and axes is not None else array

    def _make_encoded(self, text: Any, codec: Any) -> bytes:
        if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
            _refuse(f"text to encode as {_shown(codec)} in place of latin1")
        self._spend(len(text))
        return text.encode("latin1")

    def _checked(self, contents: Any, shape: Any, dtype: Any) -> bytes | bytearray:
        """Return the contents as bytes, once they are known to be exactly what the announced array needs."""
        n_bytes = _announced_bytes(shape, dtype)
        if isinstance(contents, str):  # a Python 2 string
            contents = contents.encode("latin1")
        if not isinstance(contents, (bytes, bytearray)):
            _refuse(f"an array whose contents are a {type(contents).__name__} in place of bytes")
        if len(contents) != n_bytes:
            _refuse(f"{len(contents):,} bytes for a {dtype} array of shape {shape}, which takes {n_bytes:,}")
        self._spend(n_bytes)
        return contents

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        maker = self.stack[-1]
        if not isinstance(maker, _Global) or maker not in self._makers or not isinstance(arguments, tuple):
            _refuse("a call of something that does not make plain data")
        self.stack[-1] = self._makers[maker](*arguments)

    def _load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, np.dtype):
            _set_byte_order(target, state)
        elif id(target) in self._blank:
            self._fill_array(self._blank.pop(id(target)), state)
        else:
            _refuse(f"a state to be given to a {type(target).__name__}")

    def _fill_array(self, array: Any, state: Any) -> None:
        # Every numpy since 1.0 writes these five.
        _, shape, dtype, is_fortran, contents = state
        contents = bytes(self._checked(contents, shape, dtype))
        # In place, because the pickle's memo already refers to this very array. With a dtype of its own,
        # because the pickle could go on to change the one it named.
        array.__setstate__((1, shape, np.dtype(dtype.str), bool(is_fortran), contents))

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [key, value])

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        _put(self.stack[-1], items)

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        _put(self.stack[-1], items)

    def _load_bytearray(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.stack.append(bytearray(self.read(size)))


def _announced_bytes(shape: Any, dtype: Any) -> int:
    """The size in bytes of an array, in exact integers, before anything of that size is made."""
    if not isinstance(dtype, np.dtype):
        _refuse("an array without a dtype")
    if not isinstance(shape, tuple) or len(shape) > 64 or not all(_is_length(n) for n in shape):
        _refuse("an array whose shape is not a tuple of at most 64 lengths")
    return math.prod(shape) * dtype.itemsize


def _is_length(n: object) -> bool:
    return isinstance(n, int) and 0 <= n < 1 << 63


def _make_dtype(name: Any, align: Any = False, copy: Any = True) -> np.dtype[Any]:
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        _refuse(f"an array of dtype {_shown(name)} (O: Python objects) in place of numbers or text")
    return np.dtype(name, copy=True)  # not numpy's own single one: a state may follow and change it


def _set_byte_order(dtype: Any, state: Any) -> None:
    version, order, *structure = state
    if version != 3 or order not in ("<", ">", "=", "|") or structure[:3] != [None] * 3:
        _refuse("a dtype with fields or metadata")
    sizes = (dtype.itemsize, dtype.alignment, dtype.flags) if dtype.kind in "SU" else (-1, -1, 0)
    dtype.__setstate__((3, order, None, None, None, *sizes))


def _make_defaultdict(factory: Any = None) -> defaultdict[Any, Any]:
    if factory is not None and factory is not _Global.LIST:
        _refuse("a defaultdict with another factory than list")
    return defaultdict(None if factory is None else list)


def _put(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        _refuse(f"keys and values for a {type(target).__name__}, or a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashing a nested tuple can overflow the C stack or take for ever, so only flat ones are keys.
        if not all(isinstance(part, _KEYS) for part in (key if isinstance(key, tuple) else (key,))):
            _refuse(f"a dict key that is a {type(key).__name__} of other things than numbers and text")
        target[key] = value


def _check_plain(value: Any, depth: int, heights: dict[int, int]) -> int:
    """Refuse anything but plain data; return how many levels of containers `value` has.

    `heights` remembers containers by id, so that one shared many times over is walked once.
    """
    if isinstance(value, _LEAVES):
        return 0
    if not isinstance(value, (list, tuple, dict)):
        _refuse(f"{value.value if isinstance(value, _Global) else type(value).__name__} as a value")
    if depth < _MAX_DEPTH and id(value) not in heights:
        children = value.values() if isinstance(value, dict) else value
        heights[id(value)] = 1 + max((_check_plain(child, depth + 1, heights) for child in children), default=0)
    if depth + heights.get(id(value), 1) > _MAX_DEPTH:
        _refuse(f"containers nested deeper than {_MAX_DEPTH} levels, or inside themselves")
    return heights[id(value)]


# Absent on purpose: the instructions for instances of classes, sets, persistent ids, registered extensions
# and buffers from elsewhere. Those that act on what is already on the stack are replaced below.
_PLAIN_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE "
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL"
)
for _name in _PLAIN_OPCODES.split():
    _code = getattr(pickle, _name)[0]
    _Machine.dispatch[_code] = pickle._Unpickler.dispatch[_code]
_Machine.dispatch.update(
    {
        pickle.REDUCE[0]: _Machine._load_reduce,
        pickle.BUILD[0]: _Machine._load_build,
        pickle.SETITEM[0]: _Machine._load_setitem,
        pickle.SETITEMS[0]: _Machine._load_setitems,
        pickle.DICT[0]: _Machine._load_dict,
        pickle.BYTEARRAY8[0]: _Machine._load_bytearray,
    }
)
