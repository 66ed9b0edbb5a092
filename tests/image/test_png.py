from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from imlctl.image.decode import decode
from imlctl.image.png import without_profile


def test_only_the_profile_is_left_out(makers: Any) -> None:
    pixels = makers.texture()
    profile = makers.chunk(b"iCCP", b"a\0\0" + zlib.compress(np.random.default_rng(0).bytes(9999)))
    text = makers.chunk(b"tEXt", b"Title\0iCCP")
    plain = makers.png(pixels, depth=8, extra=text)
    assert without_profile(plain) is plain
    for extra in (profile + text, text + profile):
        assert without_profile(makers.png(pixels, depth=8, extra=extra)) == plain
    assert without_profile(plain + b"tail") == plain + b"tail"


def test_a_profile_beyond_a_megabyte_is_no_obstacle(makers: Any) -> None:
    pixels = makers.texture()
    profile = zlib.compress(np.random.default_rng(0).bytes(1_500_000))
    data = makers.png(pixels, depth=8, extra=makers.chunk(b"iCCP", b"a\0\0" + profile))
    photo = decode(data)
    assert np.array_equal(photo.pixels, pixels)
    assert photo.facts.icc_profile
    assert not decode(makers.png(pixels, depth=8)).facts.icc_profile
