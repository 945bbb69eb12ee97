"""Files are written whole or not at all, and read up to a limit."""

import gzip
import os
import pickle
import stat

import pytest

from hessianfree.io.files import FileFormatError, check_is_file, read_bytes, write_atomically


def test_a_new_file_holds_what_was_written(tmp_path):
    write_atomically(tmp_path / "new.bin", lambda file: file.write(b"one"))
    assert (tmp_path / "new.bin").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["new.bin"]


def test_an_old_file_is_replaced_and_the_path_may_be_text(tmp_path):
    path = tmp_path / "old.bin"
    path.write_bytes(b"much longer than the new contents")
    write_atomically(str(path), lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_the_file_before_is_kept_where_asked(tmp_path):
    path, previous = tmp_path / "now", tmp_path / "before"
    for number in range(3):
        write_atomically(path, lambda file, number=number: file.write(b"%d" % number), previous)
        assert path.read_bytes() == b"%d" % number
        assert previous.exists() == (number > 0)
    assert previous.read_bytes() == b"1"
    assert sorted(os.listdir(tmp_path)) == ["before", "now"]


@pytest.mark.parametrize("failure", [ValueError("half way"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["old.bin"]


def test_a_failing_replace_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")

    def refuse(source, target):
        raise PermissionError("the file is in use")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="in use"):
        write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["old.bin"]


def test_the_old_file_is_whole_while_the_new_one_is_written(tmp_path):
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())
        seen.append(os.path.dirname(file.name))

    write_atomically(path, write)
    assert seen == [b"old", str(tmp_path)]
    assert path.read_bytes() == b"new"


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def noted(number):
        found = os.fstat(number)
        calls.append("folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes")
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_atomically(tmp_path / "a", lambda file: file.write(b"12345"))
    assert calls == ["5 bytes", "replace", "folder"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent; create it"):
        write_atomically(tmp_path / "absent" / "a", lambda file: file.write(b"x"))


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_permissions_and_links_survive(tmp_path):
    real, link, fresh, plain = (tmp_path / name for name in ("real", "link", "fresh", "plain"))
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomically(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    plain.write_bytes(b"")
    write_atomically(fresh, lambda file: file.write(b"x"))
    assert fresh.stat().st_mode == plain.stat().st_mode


def test_reading_recognises_gzip_by_its_bytes_and_not_by_its_name(tmp_path):
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"one") + gzip.compress(b"two"))
    (tmp_path / "b.gz").write_bytes(b"plain")
    assert read_bytes(tmp_path / "a.txt", max_bytes=100, expected="text") == b"onetwo"
    assert read_bytes(tmp_path / "b.gz", max_bytes=100, expected="text") == b"plain"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_limit_is_exact(tmp_path, pack):
    path = tmp_path / "a"
    path.write_bytes(pack(b"x" * 1000))
    assert len(read_bytes(path, max_bytes=1000, expected="text")) == 1000
    with pytest.raises(FileFormatError, match="more than 999 bytes"):
        read_bytes(path, max_bytes=999, expected="text")


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.*expected a poem"):
        check_is_file(tmp_path / "absent", "a poem")
    with pytest.raises(FileFormatError, match=r"found a folder; expected a poem"):
        check_is_file(tmp_path, "a poem")
    with pytest.raises(FileFormatError, match="found a device or a pipe"):
        check_is_file(os.devnull, "a poem")


def test_the_error_says_all_four_things_and_survives_pickling():
    error = FileFormatError("a.pkl", "an empty file", "a pickle", "copy it again")
    text = "a.pkl: found an empty file; expected a pickle. To fix it: copy it again."
    assert isinstance(error, ValueError)
    assert str(error) == text
    assert str(pickle.loads(pickle.dumps(error))) == text
