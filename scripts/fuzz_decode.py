"""Look for files that break `decode`: it must return a sane photo or refuse it in plain words.

    python scripts/fuzz_decode.py --seconds 600    # `make fuzz`
    python scripts/fuzz_decode.py FILE...          # decode these, and say what each came to

With atheris installed, coverage of our own and Pillow's Python code guides the search; otherwise,
or with --engine seeded, changed samples are tried in the order of a seed. What breaks a promise is
kept in out/fuzz, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / "fuzz"


def module(name: str) -> ModuleType:
    """Import a module of tests/hostile, which is no package."""
    path = ROOT / "tests" / "hostile" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"imlctl_fuzz_{name}", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is missing")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def samples() -> dict[str, bytes]:
    """Return the files that are changed."""
    makers = module("makers")
    found = dict(makers.samples())
    if importlib.util.find_spec("pillow_heif"):
        found["heic"] = makers.heic()
    return found


def kept(data: bytes, why: str) -> None:
    """Keep a finding."""
    path = OUT / f"found-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    print(f"{path}: {why}")


def seeded(seconds: float, seed: int) -> int:
    """Try changed samples in the order of a seed; return the exit status."""
    result = module("target").hunt(samples(), seed=seed, seconds=seconds)
    for data, why in result.found:
        kept(data, why)
    print(f"seed {seed}: {result.tried} tried, {result.decoded} decoded, {len(result.found)} found")
    return bool(result.found)


def guided(seconds: float, seed: int) -> int:
    """Have atheris search, in a process of its own that it may end; return the exit status."""
    target = module("target")
    corpus = OUT / "corpus"
    corpus.mkdir(exist_ok=True)
    for name, data in samples().items():
        (corpus / name).write_bytes(data)
    options = {
        "max_total_time": int(seconds),
        "seed": seed,
        "timeout": int(target.SECONDS),
        "rss_limit_mb": 2 * target.MEMORY >> 20,  # what atheris remembers comes on top
        "artifact_prefix": f"{OUT}/found-",
        "max_len": 20_000,
        "print_final_stats": 1,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    command = [sys.executable, __file__, "--inner", *flags, str(corpus)]
    return bool(subprocess.run(command).returncode)  # noqa: S603


def inner(arguments: list[str]) -> None:
    """Be the process that atheris runs in; it does not return."""
    import atheris

    with atheris.instrument_imports(include=["imlctl", "PIL"]):
        import imlctl.image.decode  # noqa: F401
    target = module("target")

    def change(data: bytes, most: int, seed: int) -> bytes:
        mutated = atheris.Mutate(data, most)
        whole: bytes = target.repaired(mutated) if random.Random(seed).random() < 0.5 else mutated
        return whole[:most]

    def one(data: bytes) -> None:
        target.outcome(data)

    atheris.Setup([sys.argv[0], *arguments], one, custom_mutator=change)
    atheris.Fuzz()


def replay(files: list[Path]) -> int:
    """Decode files as the search would."""
    target: Any = module("target")
    for path in files:
        photo = target.outcome(path.read_bytes())
        print(f"{path}: {'refused' if photo is None else photo.facts}")
    return 0


def main() -> int:
    """Read the command line and do what it says."""
    if sys.argv[1:2] == ["--inner"]:
        inner(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="decode these, and search for nothing")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("auto", "atheris", "seeded"), default="auto")
    wanted = parser.parse_args()
    if wanted.files:
        return replay(wanted.files)
    OUT.mkdir(parents=True, exist_ok=True)
    guide = wanted.engine == "atheris" or (
        wanted.engine == "auto" and importlib.util.find_spec("atheris") is not None
    )
    return (guided if guide else seeded)(wanted.seconds, wanted.seed)


if __name__ == "__main__":
    sys.exit(main())
