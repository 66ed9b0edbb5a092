"""Small trees in the layout of each dataset as it is distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from imlctl.data.index import build_index
from imlctl.data.layouts import LAYOUTS, choose_layout
from imlctl.data.masks import read_mask
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imlctl.data.index import Index

    Put = Callable[..., Path]

RED, GREEN = (200, 10, 10), (10, 200, 10)
NIST = "reference/manipulation/NC2016-manipulation-ref.csv"


def casia1(root: Path, photo: Put, mask: Put) -> None:
    photo("Au/Au_ani_0001.jpg")
    for kind, stem in (
        ("CM", "Sp_S_CND_A_pla0016_pla0016_0196"),
        ("Sp", "Sp_D_NND_A_nat0059_arc0049_0289"),
    ):
        photo(f"Modified Tp/Tp/{kind}/{stem}.jpg")
        mask(f"CASIA 1.0 groundtruth/{kind}/{stem}_gt.png", stem)
    photo("Modified Tp/Tp/Sp/Sp_D_NRN_A_cha0011_sec0011_0542.jpg")  # known to have none


def casia2(root: Path, photo: Put, mask: Put) -> None:
    photo("CASIA 2.0/Au/Au_ani_00001.jpg")
    photo("CASIA 2.0/Au/Au_ani_00002.bmp")
    for image, gt, of in (
        ("Tp_D_CRN_M_N_pla00035_pla00033_10997.jpg", "Tp_D_CRN_M_N_pla00035_pla00033_10997_gt", 0),
        ("Tp_D_CRN_M_N_art00012_art00012_10301.tif", "Tp_S_CRN_M_N_art00012_art00012_10301_gt", 1),
        ("Tp_D_NRD_S_N_cha10002_cha10001_20094.jpg", "Tp_D_NRD_S_N_cha10002_cha10001_20094_gt3", 2),
        ("Tp_S_NNN_S_N_sec00012_sec00012_11231.jpg", "Tp_S_NNN_S_N_sec00099_sec00099_11231_gt", 3),
    ):
        photo(f"CASIA 2.0/Tp/{image}")
        mask(f"CASIA 2 Groundtruth/{gt}.png", str(of))
    photo("CASIA 2.0/Tp/Tp_D_NRD_S_B_ani20002_nat20042_02437.tif")
    photo("CASIA 2.0/Tp/Thumbs.png")  # neither name nor number fits any mask


def columbia(root: Path, photo: Put, mask: Put) -> None:
    photo("4cam_auth/canong3_02_sub_01.tif")
    photo("4cam_splc/canong3_canonxt_sub_01.tif")
    mask(
        "4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.jpg",
        "c",
        white=GREEN,
        black=RED,
        quality=100,
        subsampling=0,
    )


def coverage(root: Path, photo: Put, mask: Put) -> None:
    photo("image/1.tif")
    photo("image/1t.tif")
    for kind in ("copy", "paste", "forged"):
        mask(f"mask/1{kind}.tif", kind)


def nist16(root: Path, photo: Put, mask: Put) -> None:
    photo("probe/NC2016_0128.jpg")
    photo("world/NC2016_3272.jpg")
    mask("reference/manipulation/mask/NC2016_3942.png", "n", white=0, black=255)
    (root / NIST).write_text(
        "TaskID|ProbeFileName|ProbeMaskFileName|IsTarget|BaseFileName\n"
        "manipulation|probe/NC2016_0128.jpg|reference/manipulation/mask/NC2016_3942.png|Y"
        "|world/NC2016_3272.jpg\n"
        "manipulation|world/NC2016_3272.jpg||N|\n"
    )


def imd2020(root: Path, photo: Put, mask: Put) -> None:
    photo("1bl55t/1bl55t_orig.jpg")
    for name in ("c97qv4m_0.jpg", "c97rkx9_0.png"):
        photo(f"1bl55t/{name}")
        mask(f"1bl55t/{name[:-4]}_mask.png", name, white=90)
    photo("z28/00065_orig.jpg")
    photo("z28/00065_fake.jpg")
    mask("z28/00065_fake_mask.png", "z")


def cocoglide(root: Path, photo: Put, mask: Put) -> None:
    photo("real/dining table_114871.png")
    photo("fake/glide_inpainting_val2017_114871_up.png")
    mask("mask/dining table_114871_mask.png", "g")


def autosplice(root: Path, photo: Put, mask: Put) -> None:
    photo("Authentic/56635.jpg")
    for quality in (100, 90, 75):
        photo(f"Forged_JPEG{quality}/56635_0.jpg")
    mask("Mask/56635_mask.png", "a")


def fantasticreality(root: Path, photo: Put, mask: Put) -> None:
    photo("dataset/ColorRealImages/r.jpg")
    photo("dataset/ColorFakeImages/f.jpg")
    mask("dataset/SegmentationFake/f.npz", "f")


def tampcoco(root: Path, photo: Put, mask: Put) -> None:
    photo("bcm_images/85_000000415798.jpg_000000415798.jpg_RT-31.5_RS0.76.jpg")
    mask("bcm_masks/85_000000415798.png_000000415798.png_RT-31.5_RS0.76.png", "b", white=2)
    photo("sp_images/1_2.jpg")
    mask("sp_masks/1_2.png", "s")


def defacto(root: Path, photo: Put, mask: Put) -> None:
    for kind, home, name in (
        ("splicing_1_img/img", "splicing_1_annotations", "0_000000195755"),
        ("splicing_2_img/img", "splicing_2_annotations", "0_000000000009"),
        ("Copy-Move-images/img", "Copy-Move-annotations", "7_000000536154"),
    ):
        photo(f"{kind}/{name}.tif")
        mask(f"{home}/probe_mask/{name}.jpg", name, quality=100)
        mask(f"{home}/donor_mask/{name}.jpg", "donor", quality=100)


def compraise(root: Path, photo: Put, mask: Put) -> None:
    photo("r000da54ft_90.jpg")
    photo("r001d260dt_71.jpg")


def tree(root: Path, photo: Put, mask: Put) -> None:
    for name in ("one", "two"):
        photo(f"{name}/tampered/a.jpg")
        photo(f"{name}/authentic/b.jpg")
        mask(f"{name}/masks/a.png", name)


def pairs(root: Path, photo: Put, mask: Put) -> None:
    photo("images/0001.png", (60, 90))
    mask("masks/0001.png", "p", shape=(60, 90))
    photo("images/0002.png")
    mask("masks/0002_mask.png", "q")


# Layout: how it is made; tampered and authentic pictures by set; how many are left out.
CASES = {
    "casia1": (casia1, {"casia1": (2, 1)}, 0),
    "casia2": (casia2, {"casia2": (4, 2)}, 1),
    "columbia": (columbia, {"columbia": (1, 1)}, 0),
    "coverage": (coverage, {"coverage": (1, 1)}, 0),
    "nist16": (nist16, {"nist16": (1, 1)}, 0),
    "imd2020": (imd2020, {"imd2020": (3, 2)}, 0),
    "cocoglide": (cocoglide, {"cocoglide": (1, 1)}, 0),
    "autosplice": (
        autosplice,
        {
            **{f"autosplice{quality}": (1, 0) for quality in (100, 90, 75)},
            "autosplice": (0, 1),
        },
        0,
    ),
    "fantasticreality": (fantasticreality, {"fantasticreality": (1, 1)}, 0),
    "tampcoco": (tampcoco, {"tampcoco-sp": (1, 0), "tampcoco-bcm": (1, 0)}, 0),
    "defacto": (defacto, {"defacto-copy-move": (1, 0), "defacto-splicing": (2, 0)}, 0),
    "compraise": (compraise, {"compraise": (0, 2)}, 0),
    "tree": (tree, {"one": (1, 1), "two": (1, 1)}, 0),
    "pairs": (pairs, {"sif": (2, 0)}, 0),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def built(case: str, tmp_path: Path, photo: Put, mask: Put) -> Index:
    home = "compRAISE" if case == "compraise" else "SIF"
    make, _, _ = CASES[case]
    make(
        tmp_path / home,
        lambda n, *a, **k: photo(f"{home}/{n}", *a, **k),
        lambda n, *a, **k: mask(f"{home}/{n}", *a, **k),
    )
    return build_index(tmp_path / home, tmp_path / "rewritten")


def by_set(index: Index) -> dict[str, tuple[int, int]]:
    return {
        name: (
            sum(e.set == name and e.mask is not None for e in index.entries),
            sum(e.set == name and e.mask is None for e in index.entries),
        )
        for name in {e.set for e in index.entries}
    }


def test_every_layout_is_tried() -> None:
    assert {*CASES, "authentic"} == set(LAYOUTS)


def test_pictures_are_found(case: str, built: Index) -> None:
    assert built.layout == case
    assert by_set(built) == CASES[case][1]
    assert built.wrong == CASES[case][2]


def test_the_masks_of_the_manifest_are_plain_and_right(
    case: str, built: Index, expected: Callable[..., np.ndarray]
) -> None:
    """Whatever the dataset marks in, the manifest's masks are white where it is manipulated."""
    of = {
        "Sp_S_CND_A_pla0016_pla0016_0196": "Sp_S_CND_A_pla0016_pla0016_0196",
        "Sp_D_NND_A_nat0059_arc0049_0289": "Sp_D_NND_A_nat0059_arc0049_0289",
        "Tp_D_CRN_M_N_pla00035_pla00033_10997": "0",
        "Tp_D_CRN_M_N_art00012_art00012_10301": "1",
        "Tp_D_NRD_S_N_cha10002_cha10001_20094": "2",
        "Tp_S_NNN_S_N_sec00012_sec00012_11231": "3",
        "canong3_canonxt_sub_01": "c",
        "1t": "forged",
        "NC2016_0128": "n",
        "c97qv4m_0": "c97qv4m_0.jpg",
        "c97rkx9_0": "c97rkx9_0.png",
        "00065_fake": "z",
        "glide_inpainting_val2017_114871_up": "g",
        "56635_0": "a",
        "f": "f",
        "85_000000415798.jpg_000000415798.jpg_RT-31.5_RS0.76": "b",
        "1_2": "s",
        "0_000000195755": "0_000000195755",
        "0_000000000009": "0_000000000009",
        "7_000000536154": "7_000000536154",
        "0001": "p",
        "0002": "q",
    }
    marked = [entry for entry in built.entries if entry.mask]
    assert marked or case == "compraise"
    for entry in marked:
        assert entry.mask is not None
        found = read_mask(entry.mask)
        name = entry.set if case == "tree" else of[entry.image.stem]
        apart = np.count_nonzero(found != expected(name, found.shape))
        assert apart <= (12 if case in ("columbia", "defacto") else 0), entry


def test_known_corrections_are_told(tmp_path: Path, photo: Put, mask: Put) -> None:
    casia2(tmp_path, photo, mask)
    index = build_index(tmp_path, tmp_path / "rewritten")
    told = {r.path.name: (r.wrong, r.what) for r in index.remarks}
    swapped = "corrected name: its mask is Tp_S_CRN_M_N_art00012_art00012_10301_gt.png"
    assert told["Tp_D_CRN_M_N_art00012_art00012_10301.tif"] == (False, swapped)
    assert told["Tp_D_NRD_S_B_ani20002_nat20042_02437.tif"] == (
        False,
        "has no mask in any distribution",
    )
    assert told["Thumbs.png"] == (True, "has no mask")
    assert len(told) == 4


def test_a_number_that_two_pictures_share_corrects_nothing(
    tmp_path: Path, photo: Put, mask: Put
) -> None:
    for stem in ("Tp_D_CRN_M_N_a00001_b00001_10001", "Tp_S_CRN_M_N_c00001_c00001_10001"):
        photo(f"Tp/{stem}.jpg")
    mask("CASIA 2 Groundtruth/Tp_D_XXX_M_N_z00001_z00001_10001_gt.png", "z")
    index = build_index(tmp_path, tmp_path / "rewritten")
    assert index.entries == []
    assert index.wrong == 2


@pytest.mark.parametrize(
    ("layout", "image", "truth"),
    [
        (
            "casia2",
            "Tp/Tp_S_NNN_S_N_sec00012_sec00012_11230.jpg",
            "CASIA 2 Groundtruth/Tp_S_NNN_S_N_sec00012_sec00012_11230_gt.png",
        ),
        ("coverage", "image/55t.tif", "mask/55forged.tif"),
        ("imd2020", "z14/00030_fake.jpg", "z14/00030_fake_mask.png"),
    ],
)
def test_known_misalignments_say_where_the_mended_mask_is(
    layout: str, image: str, truth: str, tmp_path: Path, photo: Put, mask: Put
) -> None:
    photo(image)
    mask(truth, "x", shape=(56, 40))
    (remark,) = build_index(tmp_path, tmp_path / "rewritten", layout=layout).remarks
    assert remark.wrong
    assert "40x56, not 56x40 (github.com/SunnyHaze/IML-Dataset-Corrections" in remark.what


def test_an_unknown_tree_names_the_layouts(tmp_path: Path, photo: Put) -> None:
    photo("holiday/a.jpg")
    with pytest.raises(UsageError, match=r"none of the known layouts.* --layout: casia1, casia2"):
        choose_layout("auto", tmp_path)
    index = build_index(tmp_path, tmp_path / "rewritten", layout="authentic", name="mine")
    assert by_set(index) == {"mine": (0, 1)}


def test_a_torn_nist_index_is_told(tmp_path: Path) -> None:
    (tmp_path / NIST).parent.mkdir(parents=True)
    (tmp_path / NIST).write_bytes(b"\xff\xfe\xff")
    index = build_index(tmp_path, tmp_path / "rewritten")
    assert index.layout == "nist16"
    assert [r.path.name for r in index.remarks] == ["NC2016-manipulation-ref.csv"]
