import errno
import os
import unicodedata
from pathlib import Path, PurePath

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imlctl.errors import OutputError, UsageError
from imlctl.scan.discover import Picture, discover
from imlctl.scan.naming import Kind, is_folder, is_reserved, plan, report_name
from imlctl.scan.shard import Shard

ALL = tuple(Kind)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grow(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def planned(inputs, out, kinds=(Kind.MASK,), *, recursive=False, force=False):
    discovery = discover(inputs, recursive=recursive, out=out)
    jobs = plan(discovery.pictures, out, kinds, many=discovery.many, force=force)
    return [{str(kind): str(path) for kind, path in job.outputs.items()} for job in jobs]


def test_without_o_nothing_is_written(here):
    grow("a.jpg")
    assert planned(["a.jpg"], None) == [{}]
    with pytest.raises(UsageError, match=r"overlay and json.*-o"):
        planned(["a.jpg"], None, (Kind.JSON, Kind.OVERLAY))


def test_one_picture_goes_to_the_file_that_is_named(here):
    grow("a.jpg")
    assert planned(["a.jpg"], "x/m.png") == [{"mask": "x/m.png"}]


def test_what_else_is_wanted_stands_beside_the_file(here):
    grow("a.jpg")
    assert planned(["a.jpg"], "mask.png", ALL) == [
        {
            "mask": "mask.png",
            "overlay": "mask.overlay.png",
            "heatmap": "mask.heatmap.png",
            "json": "mask.json",
        }
    ]


@pytest.mark.parametrize("out", ["out/", "exists"])
def test_one_picture_goes_into_a_folder_with_its_full_name(here, out):
    grow("photos/a.jpg")
    Path("exists").mkdir()
    folder = out.rstrip("/")
    assert planned(["photos/a.jpg"], out, ALL) == [
        {
            "mask": f"{folder}/a.jpg.mask.png",
            "overlay": f"{folder}/a.jpg.overlay.png",
            "heatmap": f"{folder}/a.jpg.heatmap.png",
            "json": f"{folder}/a.jpg.json",
        }
    ]


def test_a_folder_is_mirrored_below_the_one_given(here):
    grow("in/a.jpg", "in/a.png", "in/deep/er/a.jpg")
    assert planned(["in"], "out", recursive=True) == [
        {"mask": "out/a.jpg.mask.png"},
        {"mask": "out/a.png.mask.png"},
        {"mask": "out/deep/er/a.jpg.mask.png"},
    ]


def test_a_folder_of_one_picture_still_needs_a_folder(here):
    grow("in/a.jpg")
    assert planned(["in"], "out") == [{"mask": "out/a.jpg.mask.png"}]
    with pytest.raises(UsageError, match=r"looks like a file.*mask\.png/"):
        planned(["in"], "./mask.png")
    assert planned(["in"], "mask.png/") == [{"mask": "mask.png/a.jpg.mask.png"}]


@pytest.mark.parametrize("out", ["mask.jpg", "mask", "mask.json", ".png"])
def test_a_mask_is_only_written_as_png(here, out):
    grow("a.jpg")
    with pytest.raises(UsageError, match=r"PNG.*End the name in \.png"):
        planned(["a.jpg"], out)


def test_an_empty_output_name_is_refused(here):
    grow("a.jpg")
    with pytest.raises(UsageError, match="empty"):
        planned(["a.jpg"], "")


def test_the_standard_output_takes_one_mask(here):
    grow("a.jpg", "b.jpg", "in/a.jpg")
    assert planned(["a.jpg"], "-") == [{"mask": "None"}]
    for inputs, kinds in (
        (["a.jpg", "b.jpg"], (Kind.MASK,)),
        (["in"], (Kind.MASK,)),
        (["a.jpg"], (Kind.OVERLAY,)),
    ):
        with pytest.raises(UsageError, match="standard output takes the mask of one picture"):
            planned(inputs, "-", kinds)


def test_the_standard_input_has_a_name_among_others(here):
    grow("a.jpg")
    assert planned(["-", "a.jpg"], "out") == [
        {"mask": "out/stdin.mask.png"},
        {"mask": "out/a.jpg.mask.png"},
    ]


def test_two_pictures_of_one_name_are_refused_by_both_their_names(here):
    grow("one/a.jpg", "two/a.jpg")
    with pytest.raises(OutputError, match=r"one/a\.jpg and two/a\.jpg"):
        planned(["one/a.jpg", "two/a.jpg"], "out")
    with pytest.raises(OutputError, match=r"one/a\.jpg and two/a\.jpg"):
        planned(["one", "two"], "out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("one", "other"), [("A.jpg", "a.JPG"), ("strasse.jpg", "straße.jpg"), ("é.jpg", "e\u0301.jpg")]
)
def test_names_that_some_disks_take_for_one_are_refused(here, one, other):
    grow(f"x/{one}", f"y/{other}")
    with pytest.raises(OutputError, match="differ only in case"):
        planned([f"x/{one}", f"y/{other}"], "out")


def test_an_output_file_cannot_also_be_a_folder(here):
    grow("in/a.jpg", "in/a.jpg.mask.png/b.jpg")
    with pytest.raises(OutputError, match=r"in/a\.jpg and in/a\.jpg\.mask\.png/b\.jpg"):
        planned(["in"], "out", recursive=True)


@pytest.mark.parametrize("link", ["same", "hard", "symbolic", "folder"])
def test_an_input_is_never_an_output(here, link):
    grow("in/a.png")
    out = Path("out.png")
    if link == "same":
        out = Path("in/../in/a.png")
    elif link == "hard":
        out.hardlink_to("in/a.png")
    elif link == "symbolic":
        out.symlink_to("in/a.png")
    else:
        Path("way").symlink_to("in")
        out = Path("way/a.png")
    with pytest.raises(OutputError, match=r"input in/a\.png itself"):
        planned(["in/a.png"], str(out), force=True)


def test_an_output_of_one_picture_is_not_another_input_either(here):
    grow("a.jpg", "a.jpg.mask.png")
    with pytest.raises(OutputError, match="itself"):
        planned(["a.jpg", "a.jpg.mask.png"], ".", force=True)


def test_what_exists_is_refused_before_anything_is_done_unless_forced(here):
    grow("a.jpg", "b.jpg", "out/a.jpg.mask.png", "out/b.jpg.json")
    with pytest.raises(OutputError, match=r"out/a\.jpg\.mask\.png.*1 more.*--force"):
        planned(["a.jpg", "b.jpg"], "out", ALL)
    assert len(planned(["a.jpg", "b.jpg"], "out", ALL, force=True)) == 2


def test_only_files_can_be_forced(here):
    grow("a.jpg")
    Path("out/a.jpg.mask.png").mkdir(parents=True)
    with pytest.raises(OutputError, match="not a regular file"):
        planned(["a.jpg"], "out", force=True)


def test_a_dangling_link_counts_as_an_output_that_exists(here):
    grow("a.jpg")
    Path("mask.png").symlink_to("nowhere")
    with pytest.raises(OutputError, match="already there"):
        planned(["a.jpg"], "mask.png")
    assert planned(["a.jpg"], "mask.png", force=True) == [{"mask": "mask.png"}]


def test_a_place_that_cannot_be_written_is_refused_at_once(here, monkeypatch):
    grow("a.jpg", "file")
    for out in ("file/", "file/deeper/", "file/mask.png"):
        with pytest.raises(OutputError, match="not a folder"):
            planned(["a.jpg"], out)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="may not write"):
        planned(["a.jpg"], "new/folder/")


def test_a_place_that_cannot_be_looked_at_is_refused(here, monkeypatch):
    grow("a.jpg")
    discovery = discover(["a.jpg"])

    def forbidden(_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "is_dir", forbidden)
    with pytest.raises(OutputError, match="may write to"):
        plan(discovery.pictures, "closed/mask.png", many=False)


def test_a_name_with_no_room_for_a_suffix_is_refused(here):
    name = "x" * 245 + ".jpg"
    grow(name)
    with pytest.raises(OutputError, match=r"longer than 255 bytes.*-o FILE\.png"):
        planned([name], "out/")
    assert planned([name], "mask.png") == [{"mask": "mask.png"}]


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"two\nlines.jpg", b"-rf.jpg"])
def test_odd_names_keep_their_bytes(here, name):
    grow(os.fsdecode(name))
    (job,) = plan((Picture(Path(os.fsdecode(name)), PurePath(os.fsdecode(name))),), "o/", many=True)
    assert os.fsencode(job.outputs[Kind.MASK]) == b"o/" + name + b".mask.png"


PARTS = st.binary(min_size=1, max_size=4).filter(
    lambda part: b"/" not in part and b"\0" not in part and part not in (b".", b"..")
)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: os.fsdecode(b"/".join(parts)))


@given(st.sets(NAMES, min_size=2, max_size=6))
def test_no_two_outputs_ever_share_a_name(names):
    pictures = [Picture(Path("in", name), PurePath(name)) for name in sorted(names)]
    try:
        jobs = plan(pictures, "no-such-folder", ALL, many=True)
    except OutputError:  # refused: only if names meet when case and accents are ignored
        folded = [
            unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
            for name in names
        ]
        assume(len(set(folded)) == len(names))
        outputs = [f"{name}{kind.suffix}" for name in folded for kind in Kind]
        assert any(
            other.startswith(f"{output}/") or other == output
            for index, output in enumerate(outputs)
            for other in outputs[:index] + outputs[index + 1 :]
        )
    else:
        written = [os.fsencode(path) for job in jobs for path in job.outputs.values()]
        assert len({path.lower() for path in written}) == len(names) * len(ALL)
        for job in jobs:  # and the name of the picture can be read from the name of its mask
            mask = job.outputs[Kind.MASK].relative_to("no-such-folder")
            assert str(mask).removesuffix(".mask.png") == str(job.picture.name)


def test_what_an_earlier_scan_planned_may_be_replaced_and_nothing_else(here):
    grow("a.jpg", "b.jpg", "out/a.jpg.mask.png")
    pictures = discover(["a.jpg", "b.jpg"]).pictures
    ours = {Path("out/a.jpg.mask.png")}
    assert len(plan(pictures, "out", many=True, ours=ours)) == 2
    grow("out/b.jpg.mask.png")
    with pytest.raises(OutputError, match=r"b\.jpg\.mask\.png.*--resume"):
        plan(pictures, "out", many=True, ours=ours)


def test_a_part_has_its_own_jobs_and_the_names_of_all_are_compared(here):
    names = [f"{n}.jpg" for n in range(8)]
    grow(*names, "out/0.jpg.mask.png")
    pictures = discover(names).pictures
    parts = [plan(pictures, None, many=True, shard=Shard(index, 2)) for index in (1, 2)]
    assert sorted(str(job.picture) for jobs in parts for job in jobs) == names
    mine = 1 if Shard(1, 2).holds(PurePath("0.jpg")) else 2
    assert plan(pictures, "out", many=True, shard=Shard(3 - mine, 2))
    with pytest.raises(OutputError, match="already there"):
        plan(pictures, "out", many=True, shard=Shard(mine, 2))
    collide = discover([*names, "A.jpg", "a.jpg"]).pictures
    for index in range(1, 9):
        with pytest.raises(OutputError, match="differ only in case"):
            plan(collide, "o", many=True, shard=Shard(index, 8))


def test_a_folder_in_the_way_of_the_ledger_is_refused(here):
    grow("in/imlctl-ledger.sqlite/a.jpg")
    with pytest.raises(OutputError, match="in the way"):
        planned(["in"], "out", recursive=True)


@pytest.mark.parametrize(
    ("out", "many", "folder"),
    [
        *((None, True, False), ("-", True, False), ("", True, False), ("o", False, False)),
        *(("o", True, True), ("o/", False, True), (".", False, True)),
    ],
)
def test_what_stands_for_a_folder(here, out, many, folder):
    assert is_folder(out, many=many) is folder


@pytest.mark.parametrize("shard", [None, Shard(2, 8)])
@pytest.mark.parametrize("name", ["report.html", "records.jsonl", "records.csv"])
def test_each_part_has_reports_of_its_own_which_are_no_pictures(name, shard):
    called = report_name(name, shard)
    assert called == (name if shard is None else name.replace(".", "-2-of-8."))
    assert is_reserved(called)
    assert not is_reserved(f"my-{called}")
