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
A package's licence is not always that of all that its wheel holds:

- `opencv-python-headless` holds FFmpeg, under the LGPL 2.1, and more; see its
  `LICENSE-3RD-PARTY.txt`.
- `pillow-heif` holds libheif and libde265, under the LGPL 3, and x265, under the GPL 2, so that its
  wheel as a whole is under the GPL 2; see its `LICENSES_bundled.txt`. That is why HEIC is an extra,
  and who hands on an image or a bundle with it has to meet those terms.
- `torch` for NVIDIA's cards needs NVIDIA's CUDA libraries, which are proprietary; its builds for
  the processor do not."""
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
    """What pyproject.toml asks for, by extra; `CORE` for what is always needed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {CORE: project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in groups.items()}


def needed() -> dict[str, dict[str, bool]]:
    """Every package, for which groups it is needed, and whether it is named there.

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
    """What a package needs on this machine."""
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
        "What `pip install imlctl` brings, and each extra besides, as installed where this list\n"
        "was made. imlctl itself contains none of them.",
        "## Named by imlctl",
        _table(named, groups),
        "## Needed by those",
        _table(others, groups),
        "## Within their wheels",
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
