import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from imlctl import atomic
from imlctl.errors import OutputError


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def fail_with(code):
    def fail(*_args, **_keywords):
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_is_written_whole(tmp_path):
    data = os.urandom(100_000)
    atomic.write(tmp_path / "new" / "folder" / "a.png", data)
    assert (tmp_path / "new/folder/a.png").read_bytes() == data
    assert names(tmp_path / "new" / "folder") == ["a.png"]


def test_nothing_is_replaced_unless_asked(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"a\.png: this output is already there.*--force"):
        atomic.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.png"]
    atomic.write(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]


def test_a_file_made_by_another_process_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    flush = os.fsync

    def meanwhile(descriptor):
        flush(descriptor)
        path.write_bytes(b"theirs")

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(OutputError, match="already there"):
        atomic.write(path, b"ours")
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_nothing_new_and_the_old_untouched(tmp_path, monkeypatch, overwrite):
    path = tmp_path / "a.png"
    if overwrite:
        path.write_bytes(b"old")
    before = names(tmp_path)
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(OutputError, match=r"a\.png: cannot be written.*Free some space"):
        atomic.write(path, b"new", overwrite=overwrite)
    assert names(tmp_path) == before
    if overwrite:
        assert path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of sizes")
def test_a_disk_that_fills_half_way_leaves_nothing(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            atomic.write(tmp_path / "a.png", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic.write(tmp_path / "a.png", b"x")
    assert names(tmp_path) == []


def test_bytes_are_flushed_before_the_name_is_given(tmp_path, monkeypatch):
    path, steps = tmp_path / "a.png", []
    flush = os.fsync

    def fsync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append((kind, path.exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write(path, b"x")
    assert steps == [("file", False), ("folder", True)]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_without_hard_links_will_do(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "link", fail_with(code))
    path = tmp_path / "a.png"
    atomic.write(path, b"first")
    assert path.read_bytes() == b"first"
    with pytest.raises(OutputError, match="already there"):
        atomic.write(path, b"second")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a.png"]


def test_without_hard_links_a_failed_rename_gives_the_name_back(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", fail_with(errno.EPERM))
    monkeypatch.setattr(os, "replace", fail_with(errno.EIO))
    with pytest.raises(OutputError):
        atomic.write(tmp_path / "a.png", b"x")
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders cannot be flushed")
def test_a_disk_that_cannot_flush_folders_will_do(tmp_path, monkeypatch):
    flush = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not for folders")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write(tmp_path / "a.png", b"x")
    assert (tmp_path / "a.png").read_bytes() == b"x"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        atomic.write(tmp_path / "a.png", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", b"two\nlines.png", b"-o.png", b"x" * 251 + b".png"]
)
def test_odd_and_long_names_are_written(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    atomic.write(path, b"x")
    assert [os.fsencode(written) for written in names(tmp_path)] == [name]


def test_a_name_that_is_too_long_is_said(tmp_path):
    with pytest.raises(OutputError, match="shorter name"):
        atomic.write(tmp_path / ("x" * 300), b"x")
    assert names(tmp_path) == []


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="another folder"):
        atomic.write(tmp_path / "out" / "a.png", b"x")
    with pytest.raises(OutputError, match="another folder"):
        atomic.write(tmp_path / "out" / "deeper" / "a.png", b"x")


def test_only_regular_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(OutputError, match="not a regular file"):
            atomic.write(tmp_path / name, b"x", overwrite=True)
    assert names(tmp_path) == ["folder", "pipe"]


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path):
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    target.write_bytes(b"theirs")
    link.symlink_to(target)
    atomic.write(link, b"ours", overwrite=True)
    assert target.read_bytes() == b"theirs"
    assert not link.is_symlink()


def test_a_forbidden_folder_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", fail_with(errno.EACCES))
    with pytest.raises(OutputError, match="may write to") as caught:
        atomic.write(tmp_path / "a.png", b"x")
    assert caught.value.source == str(Path(tmp_path / "a.png"))


def test_leftovers_with_a_tag_are_swept_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "unlink", fail_with(errno.EIO))  # as if killed before it
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    for tag in ("beef", "cafe"):
        with pytest.raises(OutputError):
            atomic.write(tmp_path / "a.png", b"half", tag=tag)
    monkeypatch.undo()
    (tmp_path / "b.png").write_bytes(b"")
    assert len(names(tmp_path)) == 3
    atomic.sweep([tmp_path, tmp_path / "missing"], "beef")
    assert len(names(tmp_path)) == 2
    assert not any("beef" in name for name in names(tmp_path))
