"""Pickles are read without trusting them: plain data loads, everything else is one clear error."""

import builtins
import gzip
import io
import os
import pickle
import struct
import subprocess
import tracemalloc
from collections import OrderedDict, defaultdict
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from hessianfree.io.files import FileFormatError
from hessianfree.io.pickles import load_arrays

# Written by Python 2.7's cPickle, protocols 0 and 2: what a plot file of 2016 holds, with arrays added.
PYTHON2_PROTOCOL0 = (
    b"ccollections\ndefaultdict\np1\n(c__builtin__\nlist\np2\ntRp3\nS'training error (log)'\np4\n(l"
    b"p5\nF-0.5\nacnumpy.core.multiarray\nscalar\np6\n(cnumpy\ndtype\np7\n(S'f4'\np8\nI0\nI1\ntRp9"
    b"\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntp10\nbS'\\x00\\x00\\xe0\\xbf'\ntp11\nRp12\nasS'weights'\np13\n"
    b"(cnumpy.core.multiarray\n_reconstruct\np14\n(cnumpy\nndarray\np15\n(I0\ntp16\nS'b'\ntRp17\n(I"
    b"1\n(I2\nI3\ntp18\ng9\nI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\x80>\\x00\\x00\\x00?\\x00\\x00@?"
    b"\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\ntp19\nbg14\n(g15\ng16\nS'b'\ntRp20\n(I1\n(I2\ntp21\ng7"
    b"\n(S'i8'\np22\nI0\nI1\ntRp23\ng10\nbI00\nS'\\xf9\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\x00"
    b"\\x00\\x00\\x00\\x01\\x00\\x00'\ntp24\nbg17\ntp25\nsS'CG iter'\np26\n(lp27\nL10L\naI12\naI01"
    b"\naNaV\xe9\nac__builtin__\ncomplex\np28\n(F0\nF1\ntRp29\nas."
)
PYTHON2_PROTOCOL2 = (
    b"\x80\x02ccollections\ndefaultdict\nq\x01c__builtin__\nlist\nq\x02\x85Rq\x03(U\x14training err"
    b"or (log)q\x04]q\x05(G\xbf\xe0\x00\x00\x00\x00\x00\x00cnumpy.core.multiarray\nscalar\nq\x06cnu"
    b"mpy\ndtype\nq\x07U\x02f4q\x08K\x00K\x01\x87Rq\t(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
    b"\xffK\x00tq\nbU\x04\x00\x00\xe0\xbf\x86q\x0bRq\x0ceU\x07weightsq\rcnumpy.core.multiarray\n_re"
    b"construct\nq\x0ecnumpy\nndarray\nq\x0fK\x00\x85q\x10U\x01b\x87Rq\x11(K\x01K\x02K\x03\x86q\x12"
    b"h\t\x89U\x18\x00\x00\x00\x00\x00\x00\x80>\x00\x00\x00?\x00\x00@?\x00\x00\x80?\x00\x00\x00\xc0"
    b"tq\x13bh\x0eh\x0fh\x10U\x01b\x87Rq\x14(K\x01K\x02\x85q\x15h\x07U\x02i8q\x16K\x00K\x01\x87Rq"
    b"\x17h\nb\x89U\x10\xf9\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x01\x00\x00tq\x18bh\x11"
    b"\x87q\x19U\x07CG iterq\x1a]q\x1b(\x8a\x01\nK\x0c\x88NX\x02\x00\x00\x00\xc3\xa9c__builtin__\nc"
    b"omplex\nq\x1cG\x00\x00\x00\x00\x00\x00\x00\x00G?\xf0\x00\x00\x00\x00\x00\x00\x86Rq\x1deu."
)

MIB = 1 << 20


@pytest.fixture
def load(tmp_path):
    """Load bytes as a file named case.pkl."""

    def load(data, **options):
        (tmp_path / "case.pkl").write_bytes(data)
        return load_arrays(tmp_path / "case.pkl", **options)

    return load


@pytest.fixture
def refused(load):
    """Load bytes that must be refused; return the message."""

    def refused(data, **options):
        with pytest.raises(FileFormatError) as caught:
            load(data, **options)
        message = str(caught.value)
        assert "case.pkl: found " in message
        assert "; expected a pickle of numeric arrays" in message
        assert ". To fix it: " in message
        return message

    return refused


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def assert_same(left, right):
    """Compare nested data, with types, dtypes and shapes."""
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, strict=True)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right


PLAIN = {
    "arrays": [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array([True, False]),
        np.array(3 + 4j),
        np.zeros((0, 784), np.uint8),
        np.array(["two", "words"]),
        np.array([b"ab", b"c"]),
        np.arange(1000, dtype=np.float64),  # numpy treats arrays of over 1,000 bytes apart
    ],
    "scalars": (np.float32(0.1), np.int64(-5), np.bool_(True), np.complex64(1j), np.str_("text")),
    "numbers": [0, -1, 2**100, 0.5, float("inf"), 1 + 2j, True, False, None],
    "text": ["", "é", b"", b"\x00\xff", "x" * 300],
    "nested": {(0, 1): [()], 3: {}, None: {"a": ([1], (2, 3, 4, 5))}},
    "dtypes": (np.dtype("f4"), np.dtype(">i8"), np.dtype("U7")),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_plain_data_round_trips(load, protocol, pack):
    assert_same(load(pack(pickle.dumps(PLAIN, protocol))), PLAIN)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_foreign_byte_order_keeps_its_values(load, protocol):
    array = np.array([1.5, -2.0, 3e9], dtype=">f8")
    np.testing.assert_array_equal(load(pickle.dumps([array], protocol))[0], array)
    assert load(pickle.dumps(np.dtype(">i2"), protocol)) == np.dtype(">i2")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plots_of_2016_load_as_the_defaultdict_they_were(load, protocol):
    plots = defaultdict(list, {"training error (log)": [0.5, np.float32(0.25)], "CG iterations": [3, 4]})
    loaded = load(pickle.dumps(plots, protocol))
    assert_same(loaded, plots)
    assert loaded.default_factory is list
    assert load(pickle.dumps(defaultdict(None, {"a": 1}), protocol)).default_factory is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("size", [3, 300])
def test_arrays_are_writeable_and_shared_ones_stay_shared(load, protocol, size):
    array = np.arange(size, dtype=np.int64)
    first, again, other = load(pickle.dumps([array, array, array.copy()], protocol))
    first[0] = 7
    assert first is again
    assert other[0] == 0


@pytest.mark.parametrize("data", [PYTHON2_PROTOCOL0, PYTHON2_PROTOCOL2], ids=["protocol 0", "protocol 2"])
def test_a_pickle_of_python_2_loads(load, data):
    weights = np.array([[0, 0.25, 0.5], [0.75, 1, -2]], np.float32)
    expected = defaultdict(list)
    expected["training error (log)"] = [-0.5, np.float32(-1.75)]
    expected["weights"] = (weights, np.array([-7, 2**40]), weights)
    expected["CG iter"] = [10, 12, True, None, "é", 1j]
    assert_same(load(data), expected)


def test_numpy_1_and_2_names_mean_the_same(load):
    new = pickle.dumps(np.arange(3.0), 2)
    old = new.replace(b"numpy._core", b"numpy.core")
    assert new != old
    np.testing.assert_array_equal(load(old), np.arange(3.0), strict=True)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.pkl .*expected a pickle.*check the path"):
        load_arrays(tmp_path / "none.pkl")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="found a folder; "):
        load_arrays(tmp_path)


CALLS = [
    os.system,
    subprocess.Popen,
    builtins.eval,
    builtins.exec,
    builtins.getattr,
    builtins.__import__,
    open,
]
CALLS += [np.load, np.fromfile, np.zeros, bytearray, dict, OrderedDict, set, type, object, partial, slice]


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_of_anything_else_is_refused_and_not_run(refused, tmp_path, function, protocol):
    witness = tmp_path / "witness"
    message = refused(pickle.dumps(Call(function, f"touch {witness}"), protocol))
    assert "a reference to " in message or "the pickle instruction" in message
    assert function.__name__ in message or "the pickle instruction" in message
    assert not witness.exists()


def evaluate(witness):
    """Return a hostile value whose loading would create the file `witness`."""
    return Call(builtins.eval, f"open({str(witness)!r}, 'w').close()")


def test_the_hostile_value_of_these_tests_is_indeed_hostile(tmp_path):
    pickle.loads(pickle.dumps(evaluate(tmp_path / "witness")))
    assert (tmp_path / "witness").exists()


class Key(Call):
    """A hostile value that can be a dict key when pickled."""

    def __hash__(self):
        return 0


HIDDEN = {
    "in a list": lambda bad: [1, bad],
    "in a tuple in a dict": lambda bad: {"a": (bad,)},
    "in an array of objects": lambda bad: np.array([bad, None], dtype=object),
    "in an array in a list": lambda bad: [np.zeros(3), np.array([[bad]], dtype=object)],
    "as a state": lambda bad: Call(np.dtype, "f4", state=bad),
    "as a factory": lambda bad: Call(defaultdict, bad),
    "in a defaultdict": lambda bad: defaultdict(list, {"a": [bad]}),
    "as a dict key": lambda bad: {Key(*bad.parts[:1], *bad.parts[1]): 1},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", HIDDEN)
def test_a_hidden_call_is_refused_and_not_run(refused, tmp_path, place, protocol):
    message = refused(pickle.dumps(HIDDEN[place](evaluate(tmp_path / "witness")), protocol))
    assert "eval" in message or "Python objects" in message
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("factory", [eval, dict, tuple, os.system, "list", 3, [list]], ids=repr)
def test_a_defaultdict_with_another_factory_is_refused(refused, factory):
    message = refused(pickle.dumps(Call(defaultdict, factory)))
    assert "a reference to" in message or "another factory than list" in message


# Written by hand, since no pickler would: (what the message says, the bytes).
HAND_WRITTEN = {
    "a class and its instance": ("instruction b'\\x81'", b"\x80\x02cnumpy\nndarray\n)\x81."),
    "an old-style instance": ("instruction b'i'", b"(ios\nsystem\n."),
    "an instance from the stack": ("instruction b'o'", b"(cnumpy\nndarray\no."),
    "a persistent id": ("instruction b'P'", b"Phello\n."),
    "a registered extension": ("instruction b'\\x82'", b"\x80\x02\x82\x01."),
    "a buffer from elsewhere": ("instruction b'\\x97'", b"\x80\x05\x97."),
    "a dotted name": (
        "a reference to numpy.core.multiarray",
        b"\x80\x04\x8c\x05numpy\x8c\x0fcore.multiarray\x93.",
    ),
    "getattr by dots": ("a reference to numpy", b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."),
    "a name by itself": ("numpy's _reconstruct as a value", b"cnumpy.core.multiarray\n_reconstruct\n."),
    "list by itself": ("list as a value", b"(lcbuiltins\nlist\na."),
    "a call of list": ("a call of something", b"cbuiltins\nlist\n)R."),
    "a call of a number": ("a call of something", b"I3\n)R."),
    "a call with a list of arguments": ("a call of something", b"cnumpy\ndtype\n]R."),
    "a state for a dict": ("a state to be given to a dict", b"}}b."),
    "a state for a name": ("a state to be given to a _Global", b"cnumpy\nndarray\n}b."),
    "a state for a number": ("a state to be given to a int", b"I3\n}b."),
    "huge bytes()": ("TypeError", b"cbuiltins\nbytes\n(I999999999999\ntR."),
    "another codec": ("'zlib_codec' in place of latin1", b"c_codecs\nencode\n(Va\nVzlib_codec\ntR."),
    "a dtype of objects": ("dtype 'O'", b"cnumpy\ndtype\n(VO\ntR."),
    "a dtype of records": ("dtype 'f4,f4'", b"cnumpy\ndtype\n(Vf4,f4\ntR."),
    "items for a list": ("keys and values for a list", b"]I1\nI2\ns."),
    "items for a name": ("keys and values for a _Global", b"cnumpy\nndarray\nI1\nI2\ns."),
    "a key without a value": ("a key without a value", b"(I1\nd."),
    "an array without contents": (
        "without contents",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR.",
    ),
    "bytes after the end": ("after the end of the pickle", b"I3\n.I4\n."),
    "text": ("no intact pickle, starting with b'hello world'", b"hello world"),
    "nothing": ("cut short after 0 bytes", b""),
    "zeros": ("b'\\x00' is not a pickle instruction", bytes(100)),
    "a zip file": ("instruction b'P'", b"PK\x03\x04" + bytes(40)),
    "an unset memo": ("no intact pickle", b"g7\n."),
    "an empty stack": ("no intact pickle", b"."),
    "a future protocol": ("protocol", b"\x80\x63."),
}


@pytest.mark.parametrize("case", HAND_WRITTEN)
def test_what_no_pickler_writes_is_refused(refused, case):
    says, data = HAND_WRITTEN[case]
    assert says in refused(data)


def array_pickle(shape, dtype=b"f4", contents=b"\x00" * 8, start=b"(I0\nt", names=b"N", order=b"<", version=3):
    """Return an array's pickle, written by hand: numpy's own, but for what is given."""
    sizes = b"".join(b"L%dL\n" % n for n in shape)
    kind = b"cnumpy\ndtype\n(V%s\ntR(I%d\nV%s\nN%sNI-1\nI-1\nI0\ntb" % (dtype, version, order, names)
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n%sVb\ntR" % start
    return b"%s(I1\n(%st%sI00\nB%s%stb." % (head, sizes, kind, struct.pack("<I", len(contents)), contents)


def test_the_hand_written_array_is_sound_unless_changed(load):
    np.testing.assert_array_equal(load(array_pickle([2])), np.zeros(2, np.float32), strict=True)
    np.testing.assert_array_equal(load(array_pickle([0, 2**40], contents=b"")).shape, (0, 2**40))


@pytest.mark.parametrize(
    ("says", "change"),
    [
        ("8 bytes for a float32 array of shape (1099511627776,)", {"shape": [2**40]}),
        ("8 bytes for a float32 array", {"shape": [2**32, 2**32]}),  # 0 in 64-bit arithmetic
        ("8 bytes for a float32 array of shape (1,), which takes 4", {"shape": [1]}),
        ("not a tuple of at most 64 lengths", {"shape": [-2]}),
        ("not a tuple of at most 64 lengths", {"shape": [2**63]}),
        ("not a tuple of at most 64 lengths", {"shape": [1] * 65}),
        ("otherwise than as an empty numpy.ndarray", {"shape": [2], "start": b"(I999999999999\nt"}),
        ("8 bytes for a <S999999999 array", {"shape": [2], "dtype": b"S999999999"}),
        ("a dtype with fields", {"shape": [2], "names": b"(Va\nt"}),
        ("a dtype with fields", {"shape": [2], "order": b"O"}),
        ("a dtype with fields or metadata", {"shape": [2], "version": 4}),
        ("dtype 'M8[s]'", {"shape": [1], "dtype": b"M8[s]"}),
        ("dtype 'V8'", {"shape": [1], "dtype": b"V8"}),
    ],
)
def test_an_array_that_is_not_what_it_announces_is_refused(refused, says, change):
    assert says in refused(array_pickle(**change))


def test_an_array_keeps_its_dtype_when_the_pickle_changes_the_one_it_named(load):
    array = array_pickle([2], contents=struct.pack("<2f", 1, 2))
    head, tail = array[:-1].split(b"cnumpy\ndtype\n")
    change = b"(I3\nV>\nNNNI-1\nI-1\nI0\ntb"
    dtype_first = b"cnumpy\ndtype\n(Vf4\ntRp9\n0"
    after_dtype = tail[tail.index(b"tb") + 2 :]
    data = b"(" + dtype_first + head + b"g9\n" + after_dtype + b"g9\n" + change + b"l."
    loaded, dtype = load(data)
    assert dtype == np.dtype(">f4")
    assert np.dtype("f4").isnative  # numpy's own is not the one that changed
    np.testing.assert_array_equal(loaded, np.array([1, 2], np.float32), strict=True)


ENDLESS = b"(t" + b"2\x86" * 60  # printed, 2**60 pairs of parentheses


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + ENDLESS + b"Vb\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(" + ENDLESS + b"(I0\ntVb\ntR.",
        b"c_codecs\nencode\n(Va\n" + ENDLESS + b"tR.",
        b"cnumpy\ndtype\n(" + ENDLESS + b"tR.",
        b"cnumpy\ndtype\n(Vf4\ntR(I3\n" + ENDLESS + b"NNNI-1\nI-1\nI0\ntb.",
        b"cnumpy.core.multiarray\nscalar\n(" + ENDLESS + b"Va\ntR.",
        b"ccollections\ndefaultdict\n(" + ENDLESS + b"tR.",
        ENDLESS + b")R.",
        ENDLESS + b"Nb.",
    ],
)
def test_no_message_prints_what_has_no_end(refused, data):
    assert len(refused(data)) < 1000


def test_messages_stay_short(refused):
    assert len(refused(b"I" + b"x" * 100_000 + b"\n.")) < 1000
    assert len(refused(b"c" + b"x" * 100_000 + b"\ny\n.")) < 1000
    assert len(refused(b"cnumpy\ndtype\n(V" + b"x" * 100_000 + b"\ntR.")) < 1000


def peak_memory(function, *arguments):
    """Return the most memory in bytes that Python and numpy held at once during a call."""
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        array_pickle([2**36]),
        array_pickle([2], start=b"(L34359738368L\nt"),
        b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"abc.",  # a bytearray
        b"\x80\x04\x8e" + struct.pack("<Q", 2**36) + b"abc.",  # bytes
        b"\x80\x04\x8d" + struct.pack("<Q", 2**36) + b"abc.",  # text
        b"\x80\x04\x95" + struct.pack("<Q", 2**36) + b"N.",  # a frame
    ],
    ids=["array", "start", "bytearray", "bytes", "text", "frame"],
)
def test_an_announced_size_takes_no_memory(load, data):
    def attempt():
        with suppress(FileFormatError):
            load(data)

    assert peak_memory(attempt) < 4 * MIB


def test_a_huge_memo_index_takes_no_memory(load):
    data = b"\x80\x02Nr\xf0\xff\xff\x7f."
    assert load(data) is None
    assert peak_memory(load, data) < 4 * MIB


@pytest.mark.parametrize("through", ["array", "scalar", "text", "buffer"])
def test_one_block_of_bytes_cannot_become_many_arrays(refused, through):
    block = b"B" + struct.pack("<I", MIB) + bytes(MIB) + b"p0\n0"
    text = b"X" + struct.pack("<I", MIB) + bytes(MIB) + b"p0\n0"
    names = b"cnumpy.core.multiarray\n%s\n"
    blank = names % b"_reconstruct" + b"(cnumpy\nndarray\n(I0\ntVb\ntR"
    flat = b"cnumpy\ndtype\n(Vu1\ntRp1\n0"
    wide = b"cnumpy\ndtype\n(VS1048576\ntRp1\n0"
    start, copy = {
        "array": (block + flat, blank + b"(I1\n(I1048576\ntg1\nI00\ng0\ntb"),
        "scalar": (block + wide, names % b"scalar" + b"(g1\ng0\ntR"),
        "text": (text, b"c_codecs\nencode\n(g0\nVlatin1\ntR"),
        "buffer": (block + flat, b"cnumpy.core.numeric\n_frombuffer\n(g0\ng1\n(I1048576\ntVC\ntR"),
    }[through]
    data = start + b"(" + copy * 50 + b"l."

    def attempt():
        assert "more bytes than the file holds" in refused(data)

    assert peak_memory(attempt) < 12 * MIB


def test_a_gzip_bomb_stops_at_the_limit(refused, tmp_path):
    bomb = gzip.compress(bytes(200 * MIB))
    assert len(bomb) < MIB

    def attempt():
        message = refused(bomb, max_bytes=4 * MIB)
        assert "more than 4,194,304 bytes" in message
        assert "max_bytes" in message

    assert peak_memory(attempt) < 16 * MIB


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_truncation_is_refused(load, pack):
    data = pack(pickle.dumps({"a": np.arange(5.0), "b": ["text", np.float32(1)]}, 4))
    for length in range(len(data)):
        with pytest.raises(FileFormatError, match=r"cut short|truncated|no intact pickle"):
            load(data[:length])


def test_damage_never_escapes_as_another_error(load):
    data = pickle.dumps({"a": np.arange(5.0), "b": ["text", np.float32(1)], "c": defaultdict(list)}, 2)
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for place in rng.integers(len(data), size=2):
            damaged[place] = rng.integers(256)
        try:
            load(bytes(damaged))
        except FileFormatError:
            refusals += 1
    assert 1000 < refusals < 3000  # some damage only changes a number


def test_a_damaged_gzip_is_refused(refused):
    data = bytearray(gzip.compress(pickle.dumps(np.random.default_rng(0).normal(size=100))))
    data[-6] ^= 1  # its checksum
    assert "truncated or damaged gzip file" in refused(bytes(data))


def test_deep_nesting_is_refused_and_real_nesting_is_not(load, refused):
    assert "nested deeper than 100" in refused(b"]" * 200_000 + b"a" * 199_999 + b".")
    assert "nested deeper than 100" in refused(b"\x80\x02)" + b"\x85" * 200_000 + b".")
    assert load(b"\x80\x02)" + b"\x85" * 50 + b".") != ()


def test_containers_inside_themselves_are_refused(refused):
    itself = []
    itself.append({"a": itself})
    assert "inside themselves" in refused(pickle.dumps(itself))


def test_nested_dict_keys_are_refused_before_they_are_hashed(refused):
    # Either one stops the interpreter if hashed: the C stack overflows, or 2**60 tuples are visited.
    assert "a dict key" in refused(b"\x80\x02})" + b"\x85" * 500_000 + b"Ns.")
    assert "a dict key" in refused(b"\x80\x02})" + b"2\x86" * 60 + b"Ns.")


def test_data_shared_many_times_over_is_checked_in_no_time(load):
    # 2**60 leaves, from 60 tuples that each hold the one before it twice.
    assert len(load(b"\x80\x02)" + b"2\x86" * 60 + b".")) == 2


def test_loading_does_not_import_what_a_pickle_names(refused, monkeypatch):
    def forbidden(name, *rest, **options):
        assert name != "antigravity"
        return original(name, *rest, **options)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", forbidden)
    assert "a reference to antigravity.fly" in refused(b"cantigravity\nfly\n.")


def test_numpy_files_and_others_are_not_taken_for_pickles(refused):
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    assert "NUMPY" in refused(buffer.getvalue())
