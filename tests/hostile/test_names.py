"""Names made to meet, to escape or to be too long: each output has its own place below OUT."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from imlctl import atomic
from imlctl.errors import OutputError, UsageError
from imlctl.scan.find import Picture, discover, tree_name
from imlctl.scan.naming import Job, Kind, plan_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ALL = tuple(Kind)
OUT = "no-such-folder"

# How disks compare names: by bytes, by their capitals, or after taking accents apart.
DISKS: dict[str, Callable[[str], str]] = {
    "ext4": lambda name: name,
    "ntfs": lambda name: "".join(c.upper() if len(c.upper()) == 1 else c for c in name),
    "hfs+": lambda name: unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).lower()),
    "apfs": lambda name: unicodedata.normalize(
        "NFC", unicodedata.normalize("NFD", name).casefold()
    ),
}

BYTES = st.binary(min_size=1, max_size=12).map(lambda b: b.replace(b"\0", b"x"))
# Whatever may be written on a command line or in a list of files.
PATHS = st.lists(
    st.one_of(BYTES, st.sampled_from([b"..", b".", b"", b"/", b"a.jpg", b"~", b"C:"])),
    min_size=1,
    max_size=6,
).map(lambda parts: os.fsdecode(b"/".join(parts)))

# Few names, each in many spellings that some disk takes for the same.
SPELLINGS = st.sampled_from(
    [
        *("a.jpg", "A.jpg", "a.JPG", "b.jpg", "strasse", "straße", "STRASSE", "STRA\u1e9eE"),
        *("\u00e9", "e\u0301", "\u00c9", "E\u0301", "k", "K", "\u212a", "\u00e5", "\u212b"),
        *("\u03c2", "\u03c3", "\u03a3", "\ufb01", "fi", "\u1e9b\u0323", "\u017f\u0323\u0307"),
        *("\u0130", "i\u0307", "a.jpg.mask.png", "a.jpg.json", "A.JPG.overlay.png"),
        *("\udcff", "\udce9", "\n", "-", " "),
    ]
)
SPELLED = st.lists(SPELLINGS, min_size=1, max_size=2).map("/".join)


def outputs_of(jobs: Sequence[Job]) -> list[str]:
    return [str(path) for job in jobs for path in job.outputs.values()]


def meet(names: Iterable[str]) -> bool:
    """Whether two outputs of these pictures are one to some disk, or one is in the way of another.

    A folder may be shared if it is spelled alike or not; a file may not.
    """
    for fold in DISKS.values():
        files = [fold(f"{name}{kind.suffix}") for name in names for kind in ALL]
        folders = {str(p) for f in files for p in PurePath(f).parents}
        if len(set(files)) < len(files) or folders & set(files):
            return True
    return False


@settings(max_examples=200)
@given(st.sets(SPELLED, min_size=2, max_size=6))
def test_outputs_meet_on_no_disk(names: set[str]) -> None:
    pictures = [Picture(Path("in", name), PurePath(name)) for name in sorted(names)]
    event("meet" if meet(names) else "apart")
    outputs = outputs_of(plan_outputs(pictures, OUT, ALL, many=True))
    assert len(outputs) == len(names) * len(ALL)
    for fold in DISKS.values():
        files = {fold(path) for path in outputs}
        assert len(files) == len(outputs)
        assert not files & {str(p) for f in files for p in PurePath(f).parents}


@given(st.lists(PATHS, min_size=1, max_size=3), st.booleans())
def test_nothing_named_or_listed_escapes_the_folder(paths: list[str], listed: bool) -> None:
    assume("-" not in paths and not any(Path(path).is_dir() for path in paths))
    try:
        found = discover([] if listed else paths, listed=paths if listed else (), out=OUT)
        jobs = plan_outputs(found.pictures, OUT, ALL, many=True)
    except (OutputError, UsageError):
        event("refused")
        return
    event(f"{len(jobs)} planned")
    inside = os.path.join(os.path.abspath(OUT), "")  # noqa: PTH100, PTH118 - as the system resolves
    for output in outputs_of(jobs):
        assert os.path.abspath(output).startswith(inside)  # noqa: PTH100


@given(PATHS)
def test_a_place_is_relative_and_keeps_the_name(path: str) -> None:
    place = tree_name(path)
    assert not place.is_absolute()
    assert ".." not in place.parts
    if place.name:
        assert place.name == PurePath(os.path.normpath(path)).name
        Picture(Path(path), place)


def long_names(longest: int = 255) -> st.SearchStrategy[bytes]:
    """Names of up to the most bytes that a disk takes: ASCII, accents, and no text at all."""
    letters = st.sampled_from([b"x", "é".encode(), "鳥".encode(), b"\xff", "🙂".encode(), b" "])
    return st.tuples(letters, st.integers(longest - 40, longest)).map(
        lambda drawn: (drawn[0] * longest)[: drawn[1] - 4] + b".png"
    )


@given(long_names())
def test_a_long_name_can_be_written(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "long"
    picture = Picture(Path(os.fsdecode(name)), PurePath(os.fsdecode(name)))
    (job,) = plan_outputs((picture,), str(folder), ALL, many=True, force=True)
    for path in job.outputs.values():
        assert path is not None
        atomic.write(path, b"x", overwrite=True)  # whose temporary name has to fit as well
        assert len(os.fsencode(path.name)) <= 255
        assert path.read_bytes() == b"x"


def test_odd_names_from_the_disk_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that a shell, a terminal or a program that decodes UTF-8 stumbles over."""
    monkeypatch.chdir(tmp_path)
    names = [
        *(b"\xff\xfe.png", b"caf\xe9.png", "café.png".encode(), b"two\nlines.png", b"-rf.png"),
        *(b" .png", b"a'b\"c;$(x).png", b"\x1b[31m.png", "\u202egnp.png".encode()),
        b"x" * 230 + b".png",
    ]
    Path("in").mkdir()
    for name in names:
        Path("in", os.fsdecode(name)).write_bytes(b"")
    jobs = plan_outputs(discover(["in"], out="out").pictures, "out", many=True)
    assert {os.fsencode(job.picture.name) for job in jobs} == set(names)
    for output in outputs_of(jobs):
        atomic.write(Path(output), b"mask")
    written = {os.fsencode(path.name) for path in Path("out").iterdir()}
    assert written == {name + b".mask.png" for name in names}


@pytest.mark.parametrize(
    ("one", "other"), [("\u00e9.jpg", "e\u0301.jpg"), ("\u212b.jpg", "\u00e5.jpg")]
)
def test_of_two_spellings_in_one_folder_the_second_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in (one, other):
        Path("in", name).write_bytes(b"")
    if len(list(Path("in").iterdir())) < 2:
        pytest.skip("this disk takes them for one itself")
    first, second = outputs_of(plan_outputs(discover(["in"], out="out").pictures, "out", many=True))
    assert ("~" in first, "~" in second) == (False, True)
