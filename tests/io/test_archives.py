"""Archives: what is written is read, and what is damaged, hostile or of another kind is refused before it is read."""

import io
import json
import resource
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load, save

from hessianfree.io.archives import MAX_HEADER, Kind, open_archive, write_archive
from hessianfree.io.files import FileFormatError

KIND = Kind("note", 2)
DTYPES = [
    "bool",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


def written(path, arrays, description=None, kind=KIND):
    with open(path, "wb") as file:
        write_archive(file, kind, arrays, description or {})
    return path


def forged(path, entries, data=b"", metadata=None, description="{}"):
    """A file with this header, which our own writer would not make."""
    usual = {"kind": "note", "version": "2", "description": description, "crc32": "0"}
    header = entries if isinstance(entries, bytes) else None
    if header is None:
        header = json.dumps({"__metadata__": usual if metadata is None else metadata, **entries}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_arrays_of_every_type_and_their_description_come_back(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {dtype: (rng.normal(size=(2, 3)) * 5).astype(dtype) for dtype in DTYPES}
    arrays |= {
        "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
        "scalar": np.array(-0.0),
        "empty": np.zeros((0, 4)),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "big endian": np.arange(3, dtype=">f8"),
        "not finite": np.array([np.nan, np.inf]),
    }
    description = {"a": [1, 0.1, None, "é"], "nan": float("inf")}
    found = open_archive(written(tmp_path / "a", arrays, description), KIND)
    assert found.description == description
    assert found.version == 2
    read = found.arrays()
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype.newbyteorder("<")
        assert read[name].tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
        assert read[name].shape == array.shape


def test_safetensors_reads_the_same(tmp_path):
    arrays = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3), "flag": np.array([True])}
    theirs = load(written(tmp_path / "a", arrays).read_bytes())
    assert set(theirs) == set(arrays)
    assert all(np.array_equal(theirs[name], array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("arrays", "description", "error", "message"),
    [
        ({"x": np.zeros(2, complex)}, {}, TypeError, "complex128"),
        ({"x": np.array(["a"])}, {}, TypeError, "<U1"),
        ({"../x": np.zeros(2)}, {}, ValueError, "another folder"),
        ({"/x": np.zeros(2)}, {}, ValueError, "another folder"),
        ({}, {"f": print}, TypeError, "JSON"),
        ({}, {"x": "y" * MAX_HEADER}, ValueError, "header of"),
    ],
)
def test_what_cannot_be_kept_is_refused(arrays, description, error, message):
    with pytest.raises(error, match=message):
        write_archive(io.BytesIO(), KIND, arrays, description)


def test_every_flipped_bit_is_found(tmp_path):
    path = written(tmp_path / "a", {"W": np.arange(4, dtype=np.float32), "n": np.array(3)}, {"seed": 1})
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    padding = len(whole[8 : 8 + length]) - len(whole[8 : 8 + length].rstrip())
    blanks = range(8 + length - padding, 8 + length)
    for place in range(len(whole)):
        for bit in (0, 3, 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            if place in blanks and chr(flipped[place]).isspace():
                continue
            with pytest.raises(FileFormatError):
                open_archive(path, KIND).arrays()


def test_every_truncation_and_anything_appended_is_found(tmp_path):
    path = written(tmp_path / "a", {"W": np.arange(4, dtype=np.float32)})
    whole = path.read_bytes()
    for contents in [*(whole[:length] for length in range(len(whole))), whole + b"\0"]:
        path.write_bytes(contents)
        with pytest.raises(FileFormatError):
            open_archive(path, KIND).arrays()


def test_other_files_are_refused_by_what_they_are(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(save({"x": np.zeros(3)}))
    with pytest.raises(FileFormatError, match="another program"):
        open_archive(path, KIND)
    with pytest.raises(FileFormatError, match="found a recipe; expected a note"):
        open_archive(written(path, {}, kind=Kind("recipe", 1)), KIND)
    with pytest.raises(FileFormatError, match=r"version 3 .* reads up to 2.*pip install --upgrade"):
        open_archive(written(path, {}, kind=Kind("note", 3)), KIND)
    assert open_archive(written(path, {}, kind=Kind("note", 1)), KIND).version == 1
    with pytest.raises(FileFormatError, match="a folder"):
        open_archive(tmp_path, KIND)
    with pytest.raises(FileNotFoundError, match="no file"):
        open_archive(tmp_path / "none", KIND)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "a huge shape": ({"x": {**ENTRY, "shape": [1 << 40]}}, {}),
    "a shape whose product overflows": ({"x": {**ENTRY, "shape": [1 << 32, 1 << 32]}}, {}),
    "a huge shape of no elements": ({"x": {**ENTRY, "shape": [0] + [1 << 60] * 40, "data_offsets": [0, 0]}}, {}),
    "a negative shape": ({"x": {**ENTRY, "shape": [-2]}}, {}),
    "a shape of truths": ({"x": {**ENTRY, "shape": [True]}}, {}),
    "a place before the file": ({"x": {**ENTRY, "data_offsets": [-8, 0]}}, {}),
    "a place that overlaps": ({"x": ENTRY, "y": ENTRY}, {}),
    "a place beyond the file": ({"x": {**ENTRY, "data_offsets": [1 << 40, (1 << 40) + 8]}}, {}),
    "objects": ({"x": {**ENTRY, "dtype": "O"}}, {}),
    "a type that is a list": ({"x": {**ENTRY, "dtype": ["F32"]}}, {}),
    "an entry that is a number": ({"x": 3}, {}),
    "a path to the parent": ({"../../x": ENTRY}, {}),
    "a path on another system": ({"C:\\x": ENTRY}, {}),
    "an absolute path": ({"/etc/x": ENTRY}, {}),
    "a name with a zero byte": ({"x\0": ENTRY}, {}),
    "deep JSON": (b"[" * MAX_HEADER, {}),
    "deep JSON inside": ({}, {"description": "[" * 1_000_000}),
    "deep objects inside": ({}, {"description": '{"a":' * 200_000}),
    "a number of a million digits": (b'{"x":' + b"9" * 1_000_000 + b"}", {}),
    "a description that is a list": ({}, {"description": "[]"}),
    "a name twice": (b'{"x":1,"x":2}', {}),
    "no text": (b"\xff\xfe" * 100, {}),
    "a metadata list": ({}, {"metadata": []}),
    "a long version": ({}, {"metadata": {"kind": "note", "version": "9" * 5000, "description": "{}", "crc32": "0"}}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_with_little_memory(tmp_path, name):
    entries, others = HOSTILE[name]
    path = forged(tmp_path / "a", entries, bytes(8), **others)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FileFormatError):
        open_archive(path, KIND)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_declared_header_of_terabytes_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", 1 << 42) + b"{}")
    with pytest.raises(FileFormatError, match="a file of another kind"):
        open_archive(path, KIND)


def test_a_sparse_file_costs_nothing_before_its_arrays_are_read(tmp_path):
    size = 1 << 40
    path = forged(tmp_path / "a", {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + size)
    assert open_archive(path, KIND).types["x"].nbytes == size
