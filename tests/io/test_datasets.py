"""Digits are found in a stated order, checked, and replaced only where nothing was found."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hessianfree.io import datasets
from hessianfree.io.datasets import Digits, load_digits
from hessianfree.io.files import FileFormatError

pooch = pytest.importorskip("pooch")

REAL_MNIST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give every test an empty working directory, an empty cache and no network; return the cache folder."""

    def no_network(*arguments, **options):
        raise AssertionError("a test tried to download")

    here, cache = tmp_path / "here", tmp_path / "cache"
    here.mkdir()
    cache.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(pooch, "os_cache", lambda project: cache if project == "hessianfree" else None)
    monkeypatch.setattr(pooch, "retrieve", no_network)
    monkeypatch.setenv("HESSIANFREE_OFFLINE", "1")
    return cache


def npz_arrays(seed=0, n_train=12, n_test=4):
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(256, size=(n_train, 28, 28), dtype=np.uint8),
        "y_train": rng.integers(10, size=n_train, dtype=np.uint8),
        "x_test": rng.integers(256, size=(n_test, 28, 28), dtype=np.uint8),
        "y_test": rng.integers(10, size=n_test, dtype=np.uint8),
    }


def write_npz(path, **changes):
    np.savez(path, **(npz_arrays() | changes))
    return path


def pickle_parts(seed=0, sizes=(5, 3, 2)):
    rng = np.random.default_rng(seed)
    return tuple((rng.random((n, 784), dtype=np.float32), rng.integers(10, size=n)) for n in sizes)


def write_pickle(path, parts, pack=bytes, protocol=2):
    path.write_bytes(pack(pickle.dumps(parts, protocol)))
    return path


def assert_sound(digits, n_train, n_test, width):
    assert isinstance(digits, Digits)
    for images, labels, n in ((*digits[0:2], n_train), (*digits[2:4], n_test)):
        assert images.shape == (n, width)
        assert images.dtype == np.float32
        assert images.min() >= 0
        assert images.max() <= 1
        assert labels.shape == (n,)
        assert labels.dtype == np.int64
        assert set(labels) <= set(range(10))


def test_an_npz_is_scaled_and_flattened_row_by_row(tmp_path):
    arrays = npz_arrays()
    path = write_npz(tmp_path / "any name.npz")
    digits = load_digits(path)
    assert_sound(digits, 12, 4, 784)
    assert (digits.name, digits.source) == ("MNIST", str(path))
    np.testing.assert_array_equal(digits.train_images[3, 28 * 2 + 5], np.float32(arrays["x_train"][3, 2, 5]) / 255)
    np.testing.assert_array_equal(digits.test_images.reshape(4, 28, 28), np.float32(arrays["x_test"]) / 255)
    np.testing.assert_array_equal(digits.train_labels, arrays["y_train"])
    np.testing.assert_array_equal(digits.test_labels, arrays["y_test"])


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["pkl", "pkl.gz"])
@pytest.mark.parametrize("container", [tuple, list])
def test_a_pickle_joins_train_and_valid_in_that_order(tmp_path, pack, container):
    parts = pickle_parts()
    digits = load_digits(str(write_pickle(tmp_path / "data.pkl", container(map(container, parts)), pack)))
    assert_sound(digits, 8, 2, 784)
    assert digits.name == "MNIST"
    np.testing.assert_array_equal(digits.train_images, np.concatenate([parts[0][0], parts[1][0]]))
    np.testing.assert_array_equal(digits.train_labels, np.concatenate([parts[0][1], parts[1][1]]))
    np.testing.assert_array_equal(digits.test_images, parts[2][0])
    np.testing.assert_array_equal(digits.test_labels, parts[2][1])


def test_the_kind_is_told_from_the_contents(tmp_path):
    archive = write_npz(tmp_path / "mnist.npz")
    assert_sound(load_digits(archive.rename(tmp_path / "archive.pkl")), 12, 4, 784)
    assert_sound(load_digits(write_pickle(tmp_path / "pickled", pickle_parts(), gzip.compress)), 8, 2, 784)


def test_the_search_order(tmp_path, monkeypatch, cache):
    given = write_npz(tmp_path / "given.npz")
    files = [
        write_pickle(Path("mnist.pkl"), pickle_parts(1)),
        write_pickle(Path("mnist.pkl.gz"), pickle_parts(2), gzip.compress),
        write_npz(Path("mnist.npz")),
        write_npz(cache / "mnist.npz"),
    ]
    assert load_digits(given).source == str(given)
    for path in files:
        assert load_digits().source == str(path)
        path.unlink()
    assert load_digits().name == "8x8 digits"


def test_a_download_goes_to_the_cache_with_hash_and_time_limit(monkeypatch, cache):
    calls = []

    def retrieve(url, known_hash, fname, path, downloader):
        calls.append((url, known_hash, downloader.kwargs["timeout"], pooch.get_logger().isEnabledFor(40)))
        return str(write_npz(Path(path) / fname))

    monkeypatch.setenv("HESSIANFREE_OFFLINE", "0")
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    level = pooch.get_logger().level
    digits = load_digits()
    assert digits.source == str(cache / "mnist.npz")
    assert digits.name == "MNIST"
    ((url, known_hash, timeout, logs_errors),) = calls
    assert url == "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
    assert known_hash == "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
    assert 0 < timeout <= 10
    assert not logs_errors
    assert pooch.get_logger().level == level
    load_digits()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ConnectionError("long text"), "(ConnectionError)"),
        (PermissionError("the cache"), "(PermissionError)"),
        (ValueError("SHA256 hash of downloaded file"), "(what the server sent does not have MNIST's hash)"),
    ],
)
def test_a_failed_download_falls_back_and_says_why(monkeypatch, capfd, failure, reason):
    def retrieve(*arguments, **options):
        pooch.get_logger().error("noise")
        raise failure

    monkeypatch.delenv("HESSIANFREE_OFFLINE")
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    level = pooch.get_logger().level
    digits = load_digits()
    assert digits.name == "8x8 digits"
    assert digits.source.endswith(f"MNIST could not be downloaded {reason}")
    assert capfd.readouterr() == ("", "")
    assert pooch.get_logger().level == level


@pytest.mark.parametrize("setting", [None, "", "0"])
def test_only_a_set_environment_variable_forbids_the_download(monkeypatch, setting):
    if setting is None:
        monkeypatch.delenv("HESSIANFREE_OFFLINE")
    else:
        monkeypatch.setenv("HESSIANFREE_OFFLINE", setting)
    with pytest.raises(AssertionError, match="tried to download"):
        load_digits()


def test_the_shipped_digits():
    digits = load_digits()
    assert_sound(digits, 1500, 297, 64)
    source = "1,797 8x8 digits shipped with the package: MNIST could not be downloaded"
    assert digits.source == f"{source} (HESSIANFREE_OFFLINE is set)"
    assert digits.train_images.max() == 1
    both = np.concatenate([digits.train_labels, digits.test_labels])
    assert np.bincount(both).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(digits.test_labels, minlength=10).min() >= 15  # shuffled: every digit is tested
    nearest = np.argmin(((digits.test_images[:, None] - digits.train_images) ** 2).sum(-1), axis=1)
    assert np.mean(digits.train_labels[nearest] == digits.test_labels) > 0.97  # images and labels belong together


def test_the_split_of_the_shipped_digits_is_fixed():
    first, second = load_digits(), load_digits()
    np.testing.assert_array_equal(first.train_images, second.train_images)
    assert first.train_labels[:12].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]
    assert first.test_labels[:12].tolist() == [2, 2, 9, 8, 8, 3, 6, 0, 4, 4, 7, 6]


def test_a_missing_path_is_a_missing_file_even_where_a_search_would_find_one():
    write_npz(Path("mnist.npz"))
    with pytest.raises(FileNotFoundError, match=r"no file other\.npz .*expected an \.npz file"):
        load_digits("other.npz")


BAD_NPZ = {
    "float images": ("dtype float64", {"x_train": np.zeros((12, 28, 28))}),
    "flat images": ("training images of shape (12, 784)", {"x_train": np.zeros((12, 784), np.uint8)}),
    "small images": ("test images of shape (4, 8, 8)", {"x_test": np.zeros((4, 8, 8), np.uint8)}),
    "a number for images": ("of shape ()", {"x_test": np.uint8(3)}),
    "no images": (
        "of shape (0, 28, 28)",
        {"x_train": np.zeros((0, 28, 28), np.uint8), "y_train": np.zeros(0, int)},
    ),
    "fewer labels": ("shape (11,) for 12 images", {"y_train": np.zeros(11, np.uint8)}),
    "one-hot labels": ("shape (12, 10) for 12 images", {"y_train": np.zeros((12, 10), np.uint8)}),
    "a column of labels": ("shape (12, 1) for 12 images", {"y_train": np.zeros((12, 1), np.uint8)}),
    "float labels": ("test labels of dtype float64", {"y_test": np.zeros(4)}),
    "label 10": ("test labels from 0 to 10", {"y_test": np.array([0, 1, 10, 2], np.uint8)}),
    "label -1": ("training labels from -1 to 0", {"y_train": np.array([-1] + [0] * 11)}),
    "objects": ("y_test of dtype object", {"y_test": np.array([0, 1, None, 2])}),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_an_npz_with_other_contents_is_refused(case):
    says, changes = BAD_NPZ[case]
    write_npz(Path("mnist.npz"), **changes)
    with pytest.raises(FileFormatError) as caught:
        load_digits()
    message = str(caught.value)
    assert message.startswith("mnist.npz: found ")
    assert says in message
    assert "expected an .npz file with x_train" in message
    assert "delete or replace the file" in message


def test_an_npz_without_a_key_is_refused():
    arrays = npz_arrays()
    del arrays["y_test"]
    np.savez("mnist.npz", **arrays)
    with pytest.raises(FileFormatError, match=r"mnist\.npz: found an archive of .* without y_test\.npy"):
        load_digits()


def test_an_npz_of_hostile_objects_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "witness"),)

    write_npz(Path("mnist.npz"), y_train=np.array([Hostile()] * 12))
    with pytest.raises(FileFormatError, match="y_train of dtype object"):
        load_digits()
    assert not (tmp_path / "witness").exists()


def replace_member(name, contents, compression=zipfile.ZIP_STORED):
    """Write mnist.npz with one member's bytes replaced."""
    with zipfile.ZipFile("mnist.npz", "w", compression) as archive:
        for key, array in npz_arrays().items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{key}.npy", contents if key == name else buffer.getvalue())


def npy(shape, held):
    """Return an .npy file whose header announces uint8 of `shape`, with `held` bytes behind it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(held)


def test_the_replaced_member_is_sound_unless_changed():
    replace_member("x_train", npy((12, 28, 28), 12 * 28 * 28))
    assert load_digits().train_images.max() == 0


@pytest.mark.parametrize(
    ("says", "contents"),
    [
        ("x_train of dtype uint8 and shape (1099511627776, 28, 28) in", npy((2**40, 28, 28), 100)),
        ("x_train of dtype uint8 and shape (13, 28, 28) in", npy((13, 28, 28), 12 * 28 * 28)),
        ("no intact .npz file", b""),
        ("no intact .npz file", b"\x80\x02N."),
        ("no intact .npz file", b"\x93NUMPY\x09\x09" + bytes(100)),
    ],
)
def test_a_member_that_is_not_what_it_announces_is_refused(says, contents):
    replace_member("x_train", contents)
    with pytest.raises(FileFormatError) as caught:
        load_digits()
    assert says in str(caught.value)


def test_a_zip_bomb_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(datasets, "_MAX_BYTES", 1 << 20)
    replace_member("x_train", npy((40_000, 28, 28), 40_000 * 28 * 28), zipfile.ZIP_DEFLATED)
    assert Path("mnist.npz").stat().st_size < 100_000
    monkeypatch.setattr(np.lib.format, "read_array", lambda *a, **k: pytest.fail("the bomb was read"))
    with pytest.raises(FileFormatError, match=r"\(40000, 28, 28\) in 31,360,128 bytes \(the limit is 1,048,576\)"):
        load_digits()


def test_a_bomb_in_a_pickle_is_refused(monkeypatch):
    monkeypatch.setattr(datasets, "_MAX_BYTES", 1 << 20)
    write_pickle(Path("mnist.pkl.gz"), np.zeros(2 << 20, np.uint8), gzip.compress)
    with pytest.raises(FileFormatError, match=r"mnist\.pkl\.gz: found more than 1,048,576 bytes"):
        load_digits()


@pytest.mark.parametrize("name", ["mnist.pkl", "mnist.pkl.gz", "mnist.npz"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused_and_not_passed_over(cache, name, part):
    write_npz(cache / "mnist.npz")  # sound, and must not be reached
    path = Path(name)
    if name == "mnist.npz":
        write_npz(path)
    else:
        write_pickle(path, pickle_parts(), gzip.compress if name.endswith("gz") else bytes)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(FileFormatError, match=rf"^{name}: found "):
        load_digits()


def test_a_damaged_cache_is_named_and_not_replaced(cache, monkeypatch):
    monkeypatch.delenv("HESSIANFREE_OFFLINE")
    (cache / "mnist.npz").write_bytes(b"<html>not found</html>")
    with pytest.raises(FileFormatError, match=r"cache.mnist\.npz: found no intact \.npz file"):
        load_digits()


def test_a_folder_of_that_name_is_refused():
    Path("mnist.npz").mkdir()
    with pytest.raises(FileFormatError, match=r"mnist\.npz: found a folder"):
        load_digits()


def changed(part, images=None, labels=None):
    """Return the three parts of a pickle with one of them changed."""
    parts = [list(pair) for pair in pickle_parts()]
    parts[part][0] = parts[part][0] if images is None else images
    parts[part][1] = parts[part][1] if labels is None else labels
    return parts


BAD_PICKLES = {
    "a dict": ("a dict of another structure", {"train": 1}),
    "two parts": ("a tuple of another structure", pickle_parts()[:2]),
    "parts of three": ("a list of another structure", [(1, 2, 3)] * 3),
    "not pairs": ("a list of another structure", [1, 2, 3]),
    "lists": ("training images that are a list", changed(0, images=[[0.0] * 784] * 5)),
    "square images": (
        "test images of shape (2, 28, 28)",
        changed(2, images=np.zeros((2, 28, 28), np.float32)),
    ),
    "bytes": ("training images of dtype uint8", changed(1, images=np.zeros((3, 784), np.uint8))),
    "values to 255": ("from 255.0 to 255.0", changed(1, images=np.full((3, 784), 255.0, np.float32))),
    "negative": ("from -1.0 to -1.0", changed(0, images=np.full((5, 784), -1.0))),
    "NaN": ("from nan to nan", changed(2, images=np.full((2, 784), np.nan))),
    "infinity": ("from inf to inf", changed(2, images=np.full((2, 784), np.inf))),
    "label 10": ("training labels from 10 to 10", changed(1, labels=np.full(3, 10))),
    "fewer labels": ("shape (4,) for 5 images", changed(0, labels=np.zeros(4, int))),
    "no labels": ("labels that are a NoneType", [(pair[0], None) for pair in pickle_parts()]),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_a_pickle_with_other_contents_is_refused(case):
    says, parts = BAD_PICKLES[case]
    write_pickle(Path("mnist.pkl"), parts)
    with pytest.raises(FileFormatError) as caught:
        load_digits()
    message = str(caught.value)
    assert message.startswith("mnist.pkl: found ")
    assert says in message
    assert "expected a pickle of ((train_x, train_y)" in message


def test_lists_that_hold_themselves_many_times_over_are_refused_in_no_time():
    images = []
    for _ in range(60):
        images = [images, images]
    write_pickle(Path("mnist.pkl"), changed(0, images=images))
    with pytest.raises(FileFormatError, match="training images that are a list"):
        load_digits()


def test_a_hostile_pickle_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "witness"),)

    write_pickle(Path("mnist.pkl"), [(Hostile(), Hostile())] * 3)
    with pytest.raises(FileFormatError, match=r"mnist\.pkl: found a reference to \w+\.mkdir"):
        load_digits()
    assert not (tmp_path / "witness").exists()


def test_importing_is_light():
    heavy = ("pooch", "requests", "jax", "matplotlib")
    program = "import sys; sys.modules['hessianfree'] = p = type(sys)('hessianfree'); p.__path__ = [sys.argv[1]]\n"
    program += f"import hessianfree.io.datasets; print([m for m in {heavy} if m in sys.modules])"
    folder = Path(datasets.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.long
@pytest.mark.skipif(not REAL_MNIST.is_file(), reason="MNIST is not beside the repository (../shared/data/mnist.npz)")
def test_the_real_mnist(tmp_path):
    digits = load_digits(REAL_MNIST)
    assert_sound(digits, 60_000, 10_000, 784)
    assert digits.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert digits.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert digits.train_images.mean() == pytest.approx(0.1307, abs=1e-4)  # the well-known mean and deviation
    assert digits.train_images.std() == pytest.approx(0.3081, abs=1e-4)
    x, y = digits.train_images, digits.train_labels
    parts = ((x[:50_000], y[:50_000]), (x[50_000:], y[50_000:]), (digits.test_images, digits.test_labels))
    again = load_digits(write_pickle(tmp_path / "mnist.pkl", parts))
    for left, right in zip(again[:4], digits[:4], strict=True):
        np.testing.assert_array_equal(left, right, strict=True)
