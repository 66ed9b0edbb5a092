"""Collect the quantisation tables that cameras and editors wrote into photographs.

    python scripts/make_jpeg_tables.py FOLDER...

Writes src/imlctl/forge/jpeg_tables.json: each pair of tables once, with the quality of libjpeg that
comes closest. Tables of libjpeg itself are left out, for any quality of them can be computed. Those
of Photoshop, which Pillow lists as presets, are added. Tables are figures in a file's header; no
picture is copied.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL.JpegPresets import presets

from imlctl.forge.jpeg import Encoding, compress
from imlctl.image.facts import jpeg_facts

OUT = Path(__file__).parents[1] / "src" / "imlctl" / "forge" / "jpeg_tables.json"
LEAST_QUALITY = 25  # below, a table belongs to a thumbnail or to a test picture
EDITORS = (b"Adobe", b"Photoshop", b"GIMP", b"Lightroom")


def rows(folders: list[Path]) -> list[dict[str, Any]]:
    """Return one row for each pair of tables, by quality."""
    import numpy as np

    found: dict[tuple[Any, Any], dict[str, Any]] = {}
    blank = np.full((16, 16, 3), 128, np.uint8)
    files: list[tuple[bytes, str]] = []
    for preset in presets.values():
        tables = preset["quantization"]
        encoding = Encoding(0, (tuple(tables[0]), tuple(tables[1])))
        files.append((compress(blank, encoding), "editor"))
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in {".jpg", ".jpeg"}:
                data = path.read_bytes()
                editor = any(name in data[:65536] for name in EDITORS)
                files.append((data, "editor" if editor else "camera"))
    for data, origin in files:
        facts = jpeg_facts(data)
        if facts.standard or len(facts.tables) < 2 or (facts.quality or 0) < LEAST_QUALITY:
            continue
        luma, chroma = (facts.tables[i].values for i in (0, 1))
        if max(*luma, *chroma) > 255:
            continue
        row = {"quality": facts.quality, "from": origin, "luma": luma, "chroma": chroma}
        found.setdefault((luma, chroma), row)
    return sorted(found.values(), key=lambda r: (r["quality"], r["luma"], r["chroma"]))


def main() -> None:
    """Write the file, one pair a line."""
    lines = [
        json.dumps(row, separators=(",", ":")) for row in rows([Path(a) for a in sys.argv[1:]])
    ]
    OUT.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{OUT}: {len(lines)} pairs of tables")


if __name__ == "__main__":
    main()
