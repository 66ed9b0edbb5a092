"""Windows and macOS, as far as they can be told from here: what they lack is never assumed."""

from __future__ import annotations

import ast
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imlctl import atomic
from imlctl.scan import processes
from imlctl.train import batches as samples

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parents[1] / "src" / "imlctl"
# Of `os`, `signal` and `time`: what Windows or macOS does not have, and somebody may reach for.
NOT_EVERYWHERE = {
    *("O_DIRECTORY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_NOFOLLOW", "O_TMPFILE", "O_DIRECT"),
    *("fork", "forkpty", "getuid", "geteuid", "getgid", "getgroups", "getpgid", "getsid", "setsid"),
    *("killpg", "mkfifo", "mknod", "chown", "lchown", "chroot", "nice", "getpriority", "uname"),
    *("getloadavg", "sched_getaffinity", "sched_setaffinity", "sysconf", "statvfs", "sync"),
    *("posix_fadvise", "posix_fallocate", "copy_file_range", "sendfile", "pread", "pwrite"),
    *("readv", "writev", "fchmod", "fchown", "getxattr", "setxattr", "wait3", "wait4", "register"),
    *("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE"),
    *("alarm", "setitimer", "pause", "sigwait", "pthread_sigmask", "tzset", "clock_gettime"),
}
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def reached_for(path: Path) -> Iterator[str]:
    """Names that are not everywhere, where nothing in the same statement or `try` asks first."""
    tree = ast.parse(path.read_text("utf-8"))
    text = ast.unparse(tree)
    caught = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and node.handlers
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in caught:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from POSIX_MODULES & set(names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
            "os",
            "signal",
            "time",
        ):
            asked = f"hasattr({ast.unparse(node.value)}, '{node.attr}')" in text
            if node.attr in NOT_EVERYWHERE and not asked:
                yield ast.unparse(node)


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix()
)
def test_what_is_not_everywhere_is_asked_for_first(path: Path) -> None:
    assert list(reached_for(path)) == []


def test_the_check_sees_what_it_should(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import os, signal\nimport fcntl\nos.fork()\nsignal.SIGKILL\nos.getcwd()\n")
    assert sorted(reached_for(bad)) == ["fcntl", "os.fork", "signal.SIGKILL"]
    good = tmp_path / "good.py"
    good.write_text(
        "import os\ntry:\n    import resource\n    os.getuid()\nexcept ImportError:\n    pass\n"
        "a = os.getloadavg() if hasattr(os, 'getloadavg') else None\ngetattr(os, 'O_CLOEXEC', 0)\n"
    )
    assert list(reached_for(good)) == []


def test_files_are_written_where_folders_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # of the file: that one stays
    atomic.write(tmp_path / "new" / "a", b"1")
    assert (tmp_path / "new" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_files_are_written_where_there_are_no_hard_links(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    atomic.write(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_decoders_start_where_memory_cannot_be_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    processes._limit_memory(2**30)


@pytest.mark.parametrize(("has", "expected"), [(["spawn"], None), (["fork", "spawn"], "fork")])
def test_samples_are_made_where_processes_cannot_fork(
    has: list[str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "get_all_start_methods", lambda: has)
    assert samples._start_method() == expected
