"""Write docs/dependencies.md, packages and their licences: ``python scripts/make_dependencies.py``.

From the metadata of what is installed, so every extra of pyproject.toml has to be.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "dependencies.md"
CORE = "imlctl"
# Where the metadata says nothing, or only a family's name: read in the package's own licence file.
KNOWN = {
    "jinja2": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "opencv-python-headless": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
}
# What else the files that pip fetches hold, by their own account.
CONTAINED = """\
The licence of a package does not always cover everything in its wheel:

- `opencv-python-headless` contains FFmpeg, under the LGPL 2.1, and more; see its
  `LICENSE-3RD-PARTY.txt`.
- `pillow-heif` contains libheif and libde265, under the LGPL 3, and x265, under the GPL 2, so that
  its wheel as a whole is under the GPL 2; see its `LICENSES_bundled.txt`. That is why HEIC is an
  extra, and whoever passes on an image or a bundle with it has to meet those terms.
- `torch` for NVIDIA cards needs NVIDIA's CUDA libraries, which are proprietary; its CPU builds do
  not."""
# Classifiers in SPDX's words.
SPDX = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def declared() -> dict[str, list[Requirement]]:
    """Return the requirements in pyproject.toml by extra; `CORE` for those always needed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {CORE: project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in groups.items()}


def needed() -> dict[str, dict[str, bool]]:
    """Return every package with the groups that need it, and whether they name it.

    Raises:
        PackageNotFoundError: One is not installed.
    """
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for group, requirements in declared().items():
        waiting = [(requirement, True) for requirement in requirements]
        while waiting:
            requirement, named = waiting.pop()
            name = canonicalize_name(requirement.name)
            if group in found[name] and not named:
                continue
            found[name][group] = named
            waiting += [(below, False) for below in _below(name, requirement.extras)]
    return found


def _below(name: str, extras: set[str]) -> list[Requirement]:
    """Return the requirements of an installed package."""
    needs = map(Requirement, metadata.requires(name) or [])
    chosen = [""] if not extras else ["", *extras]
    return [
        need
        for need in needs
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in chosen)
    ]


def licence(name: str) -> str:
    """The licence that a package says it has."""
    said: Any = metadata.metadata(name)
    if name in KNOWN:
        return KNOWN[name]
    if said.get("License-Expression"):
        return str(said["License-Expression"])
    classified = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or []
        if line.startswith("License :: ") and not line.endswith("OSI Approved")
    ]
    if classified:
        return " AND ".join(sorted(SPDX.get(each, each) for each in classified))
    first = (said.get("License") or "").strip().partition("\n")[0]
    return first or "not stated"


def page() -> str:
    """Return the whole page."""
    groups = needed()
    named = sorted(name for name, uses in groups.items() if any(uses.values()))
    others = sorted(groups.keys() - set(named))
    blocks = [
        "# Dependencies and their licences",
        "<!-- Made by scripts/make_dependencies.py; do not edit. -->",
        "The packages that `pip install imlctl` installs, and those of each extra, with the\n"
        "versions at hand when this list was made. imlctl itself contains none of them.",
        "## Direct dependencies",
        _table(named, groups),
        "## Their dependencies",
        _table(others, groups),
        "## Inside their wheels",
        CONTAINED,
    ]
    return "\n\n".join(blocks) + "\n"


def _table(names: list[str], groups: dict[str, dict[str, bool]]) -> str:
    lines = ["| package | version | licence | for |", "| --- | --- | --- | --- |"]
    for name in names:
        uses = [CORE] if CORE in groups[name] else [f"`[{extra}]`" for extra in groups[name]]
        version = metadata.version(name).partition("+")[0]
        lines.append(f"| {name} | {version} | {licence(name)} | {', '.join(uses)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    OUT.write_text(page(), "utf-8", newline="\n")
    print(OUT.relative_to(ROOT))


if __name__ == "__main__":
    main()
