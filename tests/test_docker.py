"""The container files, which no test can build: what they copy, install and promise."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FILES = sorted(ROOT.glob("Dockerfile*"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


@dataclass(frozen=True)
class Instruction:
    stage: int
    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text("utf-8")).replace("\\\n", " ")
    found: list[Instruction] = []
    stage = 0
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, " ".join(rest.split())))
    return found


def texts(path: Path, name: str, stage: int | None = None) -> list[str]:
    return [i.text for i in instructions(path) if i.name == name and stage in (None, i.stage)]


def copied(path: Path) -> list[str]:
    """Files and folders taken from the sources."""
    taken = []
    for text in texts(path, "COPY"):
        words = shlex.split(text)
        if not words[0].startswith("--from="):
            taken += words[:-1]
    return taken


def test_there_is_one_for_the_processor_and_one_for_cuda() -> None:
    assert [path.name for path in FILES] == ["Dockerfile", "Dockerfile.cuda"]


@each_file
def test_all_that_is_copied_is_there_and_not_ignored(path: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    assert copied(path)
    for name in copied(path):
        assert (ROOT / name).exists()
        assert any(fnmatch.fnmatch(name.rstrip("/"), pattern) for pattern in allowed)
    assert {name.rstrip("/") for name in copied(path)} == set(allowed)  # and nothing else is sent


@each_file
def test_what_is_copied_is_enough_to_build_what_is_installed(path: Path, tmp_path: Path) -> None:
    for name in copied(path):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tmp_path / "build" / name, ignore=ignored)
        else:
            (tmp_path / "build").mkdir(exist_ok=True)
            shutil.copy(source, tmp_path / "build")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    wheels = []
    for place, out in ((ROOT, tmp_path / "here"), (tmp_path / "build", tmp_path / "there")):
        subprocess.run([*build, str(out)], cwd=place, check=True, capture_output=True)
        wheels += [wheel.read_bytes() for wheel in out.iterdir()]
    assert wheels[0] == wheels[1]


@each_file
def test_versions_and_extras_are_those_of_the_project(path: Path) -> None:
    (label,) = texts(path, "LABEL")
    assert f'org.opencontainers.image.version="{PROJECT["version"]}"' in label
    assert f'org.opencontainers.image.licenses="{PROJECT["license"]}"' in label
    (extras,) = texts(path, "ARG")
    assert '".[$EXTRAS]"' in " ".join(texts(path, "RUN"))
    chosen = set(extras.removeprefix("EXTRAS=").split(","))
    assert "heif" in chosen <= PROJECT["optional-dependencies"].keys()
    bases = {text.split()[0] for text in texts(path, "FROM")}
    (version,) = {re.fullmatch(r"python:(3\.\d+)-slim-\w+", base)[1] for base in bases}
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


@each_file
def test_everything_installed_is_held_to_the_constraints(path: Path) -> None:
    installs = [text for text in texts(path, "RUN") if " install " in text and "pip" in text]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in text for text in installs)


@each_file
def test_the_image_runs_as_nobody_in_particular_and_asks_no_network(path: Path) -> None:
    last = max(i.stage for i in instructions(path))
    assert last == 2  # what only the build needs stays behind
    (user,) = texts(path, "USER", last)
    assert int(user) > 0
    assert any("HF_HUB_OFFLINE=1" in text for text in texts(path, "ENV", last))
    names = [i.name for i in instructions(path) if i.stage == last]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "ADD" not in names
    assert texts(path, "ENTRYPOINT", last) == ['["imlctl"]']
    # The self-test runs as that user, after everything is in place.
    doctor = [i for i in instructions(path) if i.name == "RUN"][-1]
    assert doctor.text == '["imlctl", "doctor"]'
    assert names.index("USER") < len(names) - 1 - names[::-1].index("RUN")


@each_file
def test_the_examples_of_its_comment_name_real_commands(path: Path) -> None:
    comments = " ".join(re.findall(r"(?m)^#(.*)$", path.read_text("utf-8"))).replace("\\", " ")
    (tag,) = re.findall(r"-t (imlctl\S*)", comments)
    built = re.findall(r"docker build (?:-f (\S+) )?", comments)
    assert built == ["" if path.name == "Dockerfile" else path.name]
    (run,) = re.findall(rf"docker run .*? {tag} +(.*?)  ", f"{comments}  ")
    assert run.startswith("localize photos/ -o case/")
    assert "--network none" in comments


@each_file
def test_the_linter_has_nothing_to_say(path: Path) -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    ran = subprocess.run(["hadolint", path], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")
