"""Handwritten digits: MNIST if it can be found or downloaded, otherwise a small set that comes with the package."""

import math
import os
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hessianfree.io.files import FileFormatError, check_is_file
from hessianfree.io.pickles import load_arrays

_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
_TIMEOUT = 5.0  # seconds to wait for the server, each time: offline users should not wait for a fallback
_MAX_BYTES = 1 << 30  # MNIST takes 55 MB as bytes and 220 MB as float32

_NPZ = "an .npz file with x_train, x_test: uint8 (N, 28, 28), y_train, y_test: integers (N,) from 0 to 9"
_PKL = (
    "a pickle of ((train_x, train_y), (valid_x, valid_y), (test_x, test_y)) "
    "with x: float (N, 784) in [0, 1], y: integers (N,) from 0 to 9"
)
_REMEDY = "delete or replace the file, or give load_digits the path of another one"
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")

_SHIPPED_TRAIN = 1500

_Pair = tuple[NDArray[np.float32], NDArray[np.int64]]
_Arrays = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


class _ContentError(Exception):
    """The contents of a file are wrong; the caller knows which file."""


class Digits(NamedTuple):
    """Images of handwritten digits and what they show, N for training and M for testing.

    Example:
        >>> Digits(np.zeros((2, 4)), np.zeros(2), np.zeros((1, 4)), np.zeros(1), "example", "zeros").name
        'example'
    """

    train_images: NDArray[np.float32]
    """(N, d), each a row of pixels in [0, 1]; d = 784 for MNIST, 64 for the 8x8 digits."""
    train_labels: NDArray[np.int64]
    """(N,), from 0 to 9."""
    test_images: NDArray[np.float32]
    """(M, d), as `train_images`."""
    test_labels: NDArray[np.int64]
    """(M,), as `train_labels`."""
    name: str
    """"MNIST" or "8x8 digits"."""
    source: str
    """The file they come from, or in words what was used in place of MNIST and why; to show to the user."""


def load_digits(path: str | os.PathLike[str] | None = None) -> Digits:
    """Load MNIST, or a smaller set of digits if MNIST is not available.

    MNIST is looked for in this order: `path`; `mnist.pkl`, `mnist.pkl.gz` and `mnist.npz` in the working
    directory; the user's cache; a download of 11 MB into that cache, whose hash is checked. Without any of
    these, the result is the 1,797 8x8 digits shipped with the package (1,500 for training, 297 for testing),
    and its `source` says why. The environment variable HESSIANFREE_OFFLINE=1 forbids the download.

    Args:
        path: an .npz with x_train, x_test (uint8, (N, 28, 28)), y_train, y_test (integers, (N,)); or a
            pickle, plain or gzipped, of ((train_x, train_y), (valid_x, valid_y), (test_x, test_y)) with x
            (N, 784) in [0, 1], of which train and valid are joined. Default: search.

    Returns:
        The digits; 60,000 for training and 10,000 for testing if they are MNIST.

    Raises:
        FileNotFoundError: if you give a `path` that does not exist.
        FileFormatError: the file that was found is damaged or of another format; the search stops there.

    Example:
        >>> digits = load_digits()
        >>> digits.train_images.dtype, digits.train_images.shape[0] == digits.train_labels.shape[0]
        (dtype('float32'), True)
    """
    found, reason = _find_file() if path is None else Path(path), ""
    if found is None:
        found, reason = _download()
    return _load_shipped(reason) if found is None else _load_mnist(found)


def cache_folder() -> Path:
    """Where data that were downloaded are kept, the user's cache; the folder need not exist."""
    import pooch

    return Path(pooch.os_cache("hessianfree")).expanduser()


def _find_file() -> Path | None:
    here = [Path(name) for name in ("mnist.pkl", "mnist.pkl.gz", "mnist.npz")]
    return next((path for path in (*here, cache_folder() / "mnist.npz") if path.exists()), None)


def _download() -> tuple[Path | None, str]:
    """Download the file: return its path, or None and the reason for the failure."""
    if os.environ.get("HESSIANFREE_OFFLINE", "0") not in ("", "0"):
        return None, "HESSIANFREE_OFFLINE is set"
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("CRITICAL")  # a library does not write to the user's terminal unasked
    try:
        downloader = pooch.HTTPDownloader(timeout=_TIMEOUT)
        file = pooch.retrieve(_URL, _SHA256, fname="mnist.npz", path=cache_folder(), downloader=downloader)
    except OSError as error:  # no network, a server's error, or a cache that cannot be written
        return None, type(error).__name__
    except ValueError:
        return None, "what the server sent does not have MNIST's hash"
    finally:
        logger.setLevel(level)
    return Path(file), ""


def _load_mnist(path: Path) -> Digits:
    check_is_file(path, f"{_NPZ}; or {_PKL}")
    is_npz = path.suffix == ".npz" or zipfile.is_zipfile(path)
    try:
        arrays = _from_npz(path) if is_npz else _from_pickle(path)
    except _ContentError as problem:
        raise FileFormatError(path, str(problem), _NPZ if is_npz else _PKL, _REMEDY) from None
    return Digits(*arrays, name="MNIST", source=str(path))


def _from_npz(path: Path) -> _Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = [_read_member(archive, key) for key in _NPZ_KEYS]
    except _ContentError:
        raise
    except Exception as error:  # damaged archives fail in zipfile, zlib, struct or numpy; all mean the same
        raise _ContentError(f"no intact .npz file ({type(error).__name__}: {str(error)[:80]})") from None
    return _joined([arrays[:2]], arrays[2:], as_bytes=True)


def _read_member(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    """Read one array, once the size that its header announces is known to be there."""
    name = f"{key}.npy"
    if name not in archive.namelist():
        raise _ContentError(f"an archive of {archive.namelist()[:8]} without {name}")
    held = archive.getinfo(name).file_size
    with archive.open(name) as member:
        old = np.lib.format.read_magic(member) == (1, 0)
        read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
    announced = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or announced > held or held > _MAX_BYTES:
        raise _ContentError(f"{key} of dtype {dtype} and shape {shape} in {held:,} bytes (the limit is {_MAX_BYTES:,})")
    with archive.open(name) as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    return array


def _from_pickle(path: Path) -> _Arrays:
    parts = load_arrays(path, max_bytes=_MAX_BYTES)
    if not _is_sequence(parts, 3) or not all(_is_sequence(part, 2) for part in parts):
        raise _ContentError(f"a {type(parts).__name__} of another structure")
    return _joined(parts[:2], parts[2], as_bytes=False)


def _is_sequence(value: object, length: int) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == length


def _joined(train: Sequence[Sequence[Any]], test: Sequence[Any], *, as_bytes: bool) -> _Arrays:
    """Check every pair of images and labels; join those for training."""
    pairs = [_checked("training", *pair, as_bytes=as_bytes) for pair in train]
    images, labels = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return images, labels, *_checked("test", *test, as_bytes=as_bytes)


def _checked(part: str, images: Any, labels: Any, *, as_bytes: bool) -> _Pair:
    """Return images as (N, 784) in [0, 1] and labels as (N,), or say what is wrong with them."""
    for name, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            raise _ContentError(f"{part} {name} that are a {type(array).__name__}")
        if array.size == 0 or array.ndim == 0:
            raise _ContentError(f"{part} {name} of shape {array.shape}")
    if images.shape[1:] != ((28, 28) if as_bytes else (784,)):
        raise _ContentError(f"{part} images of shape {images.shape}")
    if images.dtype != np.uint8 if as_bytes else images.dtype.kind != "f":
        raise _ContentError(f"{part} images of dtype {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise _ContentError(f"{part} labels of dtype {labels.dtype} and shape {labels.shape} for {len(images)} images")
    if labels.min() < 0 or labels.max() > 9:
        raise _ContentError(f"{part} labels from {labels.min()} to {labels.max()}")
    # Written so that a NaN, which compares as false with everything, is refused too.
    if not as_bytes and not (images.min() >= 0 and images.max() <= 1):
        raise _ContentError(f"{part} images with values from {images.min()} to {images.max()}")
    scale = np.float32(255 if as_bytes else 1)
    return images.reshape(len(images), 784).astype(np.float32) / scale, labels.astype(np.int64)


def _load_shipped(reason: str) -> Digits:
    shipped = resources.files("hessianfree.io").joinpath("digits.npz")
    with shipped.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    # RandomState, not default_rng: its stream is frozen, so the split stays the same under every numpy.
    order = np.random.RandomState(0).permutation(len(labels))
    images, labels = images[order].astype(np.float32) / np.float32(16), labels[order].astype(np.int64)
    source = f"1,797 8x8 digits shipped with the package: MNIST could not be downloaded ({reason})"
    train, test = slice(None, _SHIPPED_TRAIN), slice(_SHIPPED_TRAIN, None)
    return Digits(images[train], labels[train], images[test], labels[test], name="8x8 digits", source=source)
