import errno
import os
import re
import unicodedata
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imlctl.errors import OutputError, UsageError
from imlctl.scan.find import Picture, discover
from imlctl.scan.naming import Kind, Shard, is_folder, is_kept, plan_outputs, report_name

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
    jobs = plan_outputs(discovery.pictures, out, kinds, many=discovery.many, force=force)
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
            "views": "mask.views.png",
            "reliability": "mask.reliability.png",
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
            "views": f"{folder}/a.jpg.views.png",
            "reliability": f"{folder}/a.jpg.reliability.png",
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


def test_a_name_given_to_an_option_that_takes_none_is_pointed_out(here):
    grow("a.jpg")
    with pytest.raises(UsageError, match=r"overlay\.png, does not exist.*leave it out"):
        planned(["a.jpg", "overlay.png"], "mask.png")  # --overlay overlay.png


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


def masks(inputs, **options):
    return [each["mask"] for each in planned(inputs, "out", **options)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("a.jpg", "a.jpg"), ("A.jpg", "a.JPG"), ("strasse.jpg", "straße.jpg")),
        ("é.jpg", "e\u0301.jpg"),
    ],
)
def test_of_names_that_some_disk_takes_for_one_the_second_is_marked(here, one, other):
    grow(f"x/{one}", f"y/{other}")
    first, second = masks([f"x/{one}", f"y/{other}"])
    assert first == f"out/{one}.mask.png"
    stem, _, suffix = other.rpartition(".")
    assert re.fullmatch(rf"out/{stem}~[0-9a-f]{{8}}\.{suffix}\.mask\.png", second)
    assert masks([f"x/{one}", f"y/{other}"]) == [first, second]


def test_an_output_file_cannot_also_be_a_folder(here):
    grow("in/a.jpg", "in/a.jpg.mask.png/b.jpg")
    first, second = masks(["in"], recursive=True)
    assert re.fullmatch(r"out/a~[0-9a-f]{8}\.jpg\.mask\.png", first)
    assert second == "out/a.jpg.mask.png/b.jpg.mask.png"


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
    with pytest.raises(OutputError, match=r"would replace the input in/a\.png"):
        planned(["in/a.png"], str(out), force=True)


def test_an_output_of_one_picture_is_not_another_input_either(here):
    grow("a.jpg", "a.jpg.mask.png")
    with pytest.raises(OutputError, match="would replace the input"):
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
        plan_outputs(discovery.pictures, "closed/mask.png", many=False)


@pytest.mark.parametrize("name", ["x" * 251 + ".jpg", "ü" * 122 + ".jpeg", "y" * 255])
def test_a_name_with_no_room_for_a_suffix_is_shortened(here, name):
    grow(name)
    (mask,) = masks([name, "b.jpg"])[:1]
    assert len(os.fsencode(Path(mask).name)) <= 255
    assert re.search(r"~[0-9a-f]{8}(\.jpe?g)?\.mask\.png$", mask)
    assert planned([name], "mask.png") == [{"mask": "mask.png"}]
    with pytest.raises(OutputError, match="at most 255 bytes"):
        planned([name], "z" * 250 + ".png", ALL)


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"two\nlines.jpg", b"-rf.jpg"])
def test_odd_names_keep_their_bytes(here, name):
    grow(os.fsdecode(name))
    (job,) = plan_outputs(
        (Picture(Path(os.fsdecode(name)), PurePath(os.fsdecode(name))),), "o/", many=True
    )
    assert os.fsencode(job.outputs[Kind.MASK]) == b"o/" + name + b".mask.png"


PARTS = st.binary(min_size=1, max_size=4).filter(
    lambda part: b"/" not in part and b"\0" not in part and part not in (b".", b"..")
)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: os.fsdecode(b"/".join(parts)))


@given(st.sets(NAMES, min_size=2, max_size=6))
def test_no_two_outputs_ever_share_a_name(names):
    pictures = [Picture(Path("in", name), PurePath(name)) for name in sorted(names)]
    jobs = plan_outputs(pictures, "no-such-folder", ALL, many=True)
    written = [_folded(path) for job in jobs for path in job.outputs.values()]
    assert len(set(written)) == len(names) * len(ALL)
    folders = {_folded(p) for job in jobs for p in job.outputs[Kind.MASK].parents}
    assert not folders & set(written)
    for job in jobs:  # and the name of the picture can be read from the name of its mask
        mask = str(job.outputs[Kind.MASK].relative_to("no-such-folder")).removesuffix(".mask.png")
        name = str(job.picture.path.relative_to("in"))
        assert mask == name or re.sub(r"~[0-9a-f]{8}", "", mask) == name


def _folded(path):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", str(path)).casefold())


def test_what_an_earlier_scan_planned_may_be_replaced_and_nothing_else(here):
    grow("a.jpg", "b.jpg", "out/a.jpg.mask.png")
    pictures = discover(["a.jpg", "b.jpg"]).pictures
    ours = {Path("out/a.jpg.mask.png")}
    assert len(plan_outputs(pictures, "out", many=True, ours=ours)) == 2
    grow("out/b.jpg.mask.png")
    with pytest.raises(OutputError, match=r"b\.jpg\.mask\.png.*--resume"):
        plan_outputs(pictures, "out", many=True, ours=ours)


def test_a_part_has_its_own_jobs_and_the_names_of_all_are_compared(here):
    names = [f"{n}.jpg" for n in range(8)]
    grow(*names, "out/0.jpg.mask.png")
    pictures = discover(names).pictures
    parts = [plan_outputs(pictures, None, many=True, shard=Shard(index, 2)) for index in (1, 2)]
    assert sorted(str(job.picture) for jobs in parts for job in jobs) == names
    mine = 1 if Shard(1, 2).holds(PurePath("0.jpg")) else 2
    assert plan_outputs(pictures, "out", many=True, shard=Shard(3 - mine, 2))
    with pytest.raises(OutputError, match="already there"):
        plan_outputs(pictures, "out", many=True, shard=Shard(mine, 2))
    collide = discover([*names, "A.jpg", "a.jpg"]).pictures
    whole = plan_outputs(collide, "o", many=True)
    parts = [plan_outputs(collide, "o", many=True, shard=Shard(index, 8)) for index in range(1, 9)]
    assert sorted((j.outputs for p in parts for j in p), key=str) == sorted(
        (j.outputs for j in whole), key=str
    )


@pytest.mark.parametrize("name", ["imlctl-ledger.sqlite", "sha256sums", "report.html"])
def test_a_folder_in_the_way_of_what_a_scan_keeps_is_marked(here, name):
    grow(f"in/{name}/a.jpg")
    (mask,) = masks(["in"], recursive=True)
    assert Path(mask).parts[1] != name
    assert "~" in Path(mask).parts[1]


def test_an_input_in_the_place_of_the_manifest_is_refused(here):
    grow("in/SHA256SUMS")
    with pytest.raises(OutputError, match="would replace the input"):
        planned(["in/SHA256SUMS", "in/b.jpg"], "in")


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
    assert is_kept(called)
    assert not is_kept(f"my-{called}")


@given(st.binary(min_size=1).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_")))
def test_every_picture_is_in_exactly_one_part(raw):
    name = PurePosixPath(os.fsdecode(raw))
    for count in (1, 2, 7):
        assert sum(Shard(n, count).holds(name) for n in range(1, count + 1)) == 1


def test_parts_are_of_about_the_same_size():
    names = [PurePath(f"case/{n:05}.jpg") for n in range(8000)]
    sizes = [sum(Shard(n, 8).holds(name) for name in names) for n in range(1, 9)]
    assert sum(sizes) == 8000
    assert 850 < min(sizes) <= max(sizes) < 1150


def test_the_division_is_the_same_on_every_machine_and_for_ever():
    assert Shard(1, 8).holds(PurePosixPath("deep/b.png"))
    assert Shard(1, 8).holds(PureWindowsPath("deep\\b.png"))


def test_a_part_is_written_as_people_count():
    assert Shard.parse("2/8") == Shard(2, 8)
    assert Shard(2, 8).label == "2-of-8"


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "2", "a/b", "1/2/3", "-1/4", ""])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)
