"""Arrays on a disk: which they are, and rows of them."""

from __future__ import annotations

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from hessianfree.io import stored
from stored_cases import Counted

DATA = np.random.default_rng(0).normal(size=(97, 3, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    np.save(folder / "x.npy", DATA)
    file = h5py.File(folder / "x.h5", "w")
    chunked = Counted(DATA)
    chunked.chunks = (10, 3, 2)
    yield {
        "memmap": np.load(folder / "x.npy", mmap_mode="r"),
        "view of a memmap": np.asarray(np.load(folder / "x.npy", mmap_mode="r+")),
        "copy on write": np.load(folder / "x.npy", mmap_mode="c"),
        "hdf5": file.create_dataset("plain", data=DATA),
        "hdf5 in chunks": file.create_dataset("chunks", data=DATA, chunks=(7, 3, 2), compression="gzip"),
        "zarr": zarr.create_array(folder / "x.zarr", data=DATA, chunks=(9, 3, 2)),
        "slices": Counted(DATA),
        "slices of chunks": chunked,
        "memory": DATA,
    }
    file.close()


KINDS = ["memmap", "view of a memmap", "copy on write", "hdf5", "hdf5 in chunks", "zarr", "slices", "slices of chunks"]


@pytest.mark.parametrize("kind", [*KINDS, "memory"])
@given(indices=st.lists(st.integers(0, 96), max_size=30), at_once=st.sampled_from([1, 100, 1 << 20]))
def test_rows_are_those_of_numpy(kinds, kind, indices, at_once):
    chosen = np.array(indices, np.intp)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "AT_ONCE", at_once)
        patch.setattr(stored, "GAP", 50)
        patch.setattr(stored, "CHOSEN", 4)
        found = stored.rows(kinds[kind], chosen)
    assert found.dtype == DATA.dtype
    np.testing.assert_array_equal(found, DATA[chosen])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_known(kinds, kind, monkeypatch):
    assert stored.is_stored(kinds[kind])
    assert stored.any_stored({"a": [np.ones(3), kinds[kind]]})
    monkeypatch.setattr(stored, "AT_ONCE", 200)
    np.testing.assert_array_equal(np.concatenate(list(stored.pieces(kinds[kind]))), DATA)
    np.testing.assert_array_equal(stored.whole(kinds[kind], "data"), DATA)
    np.testing.assert_array_equal(stored.spread(kinds[kind], 50), DATA[::2])


def test_what_is_in_memory_is_known(kinds):
    import pandas as pd
    import scipy.sparse

    frame = pd.DataFrame({"a": [1.0, 2.0]})
    memmap = kinds["memmap"]
    for array in (
        DATA,
        jnp.ones(2),
        np.float32(1),
        [[1.0]],
        frame,
        frame["a"],
        scipy.sparse.eye_array(3).tocsr(),
        None,
    ):
        assert not stored.is_stored(array)
    assert not stored.is_stored(memmap[[1, 2]])
    assert not stored.is_stored(memmap + 1)


def test_a_closed_file_is_named(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", data=DATA)
    with pytest.raises(ValueError, match=r"Dataset that cannot be read .*keep its file open"):
        stored.is_stored(data)


def test_changes_of_a_memory_map_survive_reading(tmp_path):
    np.save(tmp_path / "x.npy", DATA)
    for mode in ("r+", "c"):
        array = np.load(tmp_path / "x.npy", mmap_mode=mode)
        array[5] = 7
        stored.rows(array, np.arange(97))
        assert (array[5] == 7).all()
        assert (stored.rows(array, np.array([5])) == 7).all()


def test_what_is_too_large_is_refused(kinds, monkeypatch):
    monkeypatch.setattr(stored, "memory", lambda: 4 * DATA.nbytes - 4)
    with pytest.raises(ValueError, match=r"The stored inputs of .* GiB .*minibatch_size=1000"):
        stored.whole(kinds["hdf5"], "inputs")


def test_errors_say_which_rows_were_read():
    class Broken(Counted):
        def __getitem__(self, key):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        stored.rows(Broken(DATA), np.array([8, 3]))
    assert caught.value.__notes__ == [
        "This happened while rows of a stored array were read, 2 of them between row 3 and row 8."
    ]
