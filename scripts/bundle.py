"""Make trained weights the bundled ones: averaged, scored, calibrated, self-tested, registered.

    python scripts/bundle.py NAME RUN... [--heads] [--real data/val --pictures "..."]

NAME is `efficientiml` or `diffiml`, RUN the folder of an `imlctl train`, or a file of weights.
Taken are the averaged weights of a run's last step; for `efficientiml`, of a DiffIML that was
trained together with its encoder, the encoder. Of several, of which each must have started from
another or from one ancestor, the mean is taken (model soups, Wortsman et al. 2022). One may be
named twice to weigh double, and parts that only some have are theirs alone.

The rule is calibrated on the photographs that the first run was not trained on. With `--heads` a
quarter of them all is kept for that, and on the others EfficientIML's score, its reliability and
what it makes of copies are trained. `--real` names a folder of real forgeries and authentic
pictures, `<set>/tampered`, `masks`, `authentic`: how often each verdict is given there goes into
the card.
After it, `python scripts/make_tables.py` brings the model cards up to date.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from imlctl.core.diff_iml import DiffIML
from imlctl.core.efficient_iml import EfficientIML
from imlctl.data.manifest import evaluation_pictures
from imlctl.evaluate.score import evaluate
from imlctl.forge.photos import load_pool
from imlctl.mask.rates import measured
from imlctl.pipeline import Localizer, Settings
from imlctl.train.calibrate import calibrate, with_verdict
from imlctl.train.checkpoint import load_average
from imlctl.weights.load import Card, Loaded, attach, load, save

KEPT = 0.25  # of the photographs, for the calibration of a score that others taught
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("efficientiml", "diffiml"))
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--heads", action="store_true", help="train score and reliability, too")
    parser.add_argument("--real", type=Path, help="folder to measure the verdicts' rates on")
    parser.add_argument("--pictures", default="", help="what these pictures are, in words")
    given = parser.parse_args()
    loaded = mean_of([averaged(run) for run in given.runs])
    if given.name == "efficientiml" and isinstance(loaded.model, DiffIML):
        loaded = encoder_of(loaded)
    folders = [Path(folder) for folder in loaded.card.training["preset"]["data"]["photos"]]
    trained_without: float = loaded.card.training["preset"]["data"]["validation_share"]
    share = KEPT if given.heads else trained_without
    held = load_pool(folders, validation=True, validation_share=share)
    teaching = load_pool(folders, validation_share=share) if given.heads else None
    cpu = torch.device("cpu")
    fused = copy.deepcopy(loaded.model).fuse().to(memory_format=torch.channels_last)  # for speed
    found = calibrate(fused, held, device=cpu, teaching=teaching)
    if found.lowered:
        cast("EfficientIML", loaded.model).lower(found.lowered)  # as its copy was
        print(f"{found.lowered:.3f} taken from the log odds of a pixel")
    if fused.scored:
        scored, model = cast("EfficientIML", fused), cast("EfficientIML", loaded.model)
        model.whole, model.sight, model.copied = scored.whole, scored.sight, scored.copied
        model.config = scored.config
    card = replace(with_verdict(loaded.card, found), config=loaded.model.config.to_dict())
    path = ROOT / "src" / "imlctl" / "weights" / "bundled" / f"{given.name}.safetensors"
    save(path, loaded.model.eval(), card)
    attach(path)
    if given.real is not None:
        measure(path, given.real, given.pictures)
    enter(given.name, path)


def measure(path: Path, folder: Path, pictures: str) -> None:
    """Count the verdicts on real pictures, and say so in the card."""
    localizer = Localizer(Settings(weights=path))
    seen = list(evaluate(evaluation_pictures(folder), localizer.localize))
    rates = measured(
        pictures,
        [(each.verdict, each.edited) for each in seen if each.tampered],
        [each.verdict for each in seen if not each.tampered],
    )
    loaded = load(path)
    save(path, loaded.model, replace(loaded.card, rates=rates))


def averaged(run: Path) -> Loaded:
    """Load a run's weights as they were averaged at its last step; those of a file as they are."""
    if run.is_file():
        return load(run)
    loaded = load(run / "best.safetensors")
    loaded.model.load_state_dict(load_average(run / "last.safetensors"))
    steps = loaded.card.training["preset"]["optim"]["steps"]
    return replace(
        loaded, card=replace(loaded.card, training=loaded.card.training | {"steps": steps})
    )


def encoder_of(loaded: Loaded) -> Loaded:
    """Take the EfficientIML out of a DiffIML that it was trained in (`diffusion.auxiliary`)."""
    model = loaded.model.encoder.backbone
    if not isinstance(model, EfficientIML):
        raise SystemExit("this DiffIML was trained without the heads of its encoder")
    card = Card("efficient-iml", model.config.to_dict(), training=loaded.card.training)
    return replace(loaded, model=model, card=card)


def mean_of(runs: list[Loaded]) -> Loaded:
    """Average the weights of runs; the first one's card says how many they were."""
    first = runs[0]
    if len(runs) == 1:
        return first
    states = [run.model.state_dict() for run in runs]
    if any(set(state) - set(states[0]) for state in states):
        raise SystemExit("name first the run whose model has all parts")
    first.model.load_state_dict(
        {
            key: torch.stack([s[key].double() for s in states if key in s]).mean(0).to(value.dtype)
            for key, value in states[0].items()
        }
    )
    training = first.card.training | {"runs": [run.card.training for run in runs]}
    return replace(first, card=replace(first.card, training=training))


def enter(name: str, path: Path) -> None:
    """Write hash and size into the registry; all else stays."""
    registry = ROOT / "weights.toml"
    before, head, entry = registry.read_text("utf-8").partition(f"[weights.{name}]\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for key, value in {"sha256": f'"{digest}"', "size": path.stat().st_size}.items():
        entry = re.sub(rf"^{key} = .*$", f"{key} = {value}", entry, count=1, flags=re.MULTILINE)
    registry.write_text(before + head + entry, "utf-8")


if __name__ == "__main__":
    main()
