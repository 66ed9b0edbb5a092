import hashlib
import os

import pytest

from imlctl.scan.hashing import all_match, sha256_of


def test_files_are_hashed_whole(tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing"):
        with pytest.raises(OSError, match=r"regular|directory|No such"):
            sha256_of(tmp_path / name)


def test_all_must_match(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    files = {str(tmp_path / name): hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert all_match(files)
    (tmp_path / "b").write_text("B")
    assert not all_match(files)
    (tmp_path / "b").unlink()
    assert not all_match(files)
