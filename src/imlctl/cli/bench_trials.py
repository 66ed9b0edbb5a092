"""`imlctl bench --f1 PATH --ablate` and `--peer`: what they run."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from imlctl.cli.bench_run import answer_of, head, rule_of, watched
from imlctl.cli.bench_show import VERSION, Measured
from imlctl.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from imlctl.bench.accuracy import Rule
    from imlctl.bench.peer import Command
    from imlctl.bench.summary import PictureScore
    from imlctl.cli.bench_run import Common
    from imlctl.data.manifest import Entry
    from imlctl.pipeline import Localizer


def ablation(common: Common, place: Path, what: str) -> Measured:
    """Accuracy with one thing varied."""
    from imlctl.bench.ablation import MEMBERS, SEEDS, STEPS, check
    from imlctl.bench.page import known
    from imlctl.data.manifest import evaluation_pictures

    check(what, len(common.models) + len(common.weights))
    cases = evaluation_pictures(place, split=common.split)
    arms: list[tuple[str, tuple[str, str | None], dict[str, int]]]
    if what in ("steps", "ensemble"):
        values = getattr(common, what) or {"steps": STEPS, "ensemble": MEMBERS}[what]
        arms = [(f"{value}", common.named[0], {what: value}) for value in values]
        seeds = SEEDS if what == "ensemble" else 1
    else:
        arms = [(weights or model, (model, weights), {}) for model, weights in common.named]
        seeds = 1
    rows, shown = [], []
    for arm, named, changed in arms:
        localizer = common.localizer(named, **changed)
        if what in ("steps", "ensemble") and not localizer.model.samples:
            raise UsageError(
                f"{localizer.provenance['model']} does not sample, so it has no {what}",
                source="--ablate",
                remedy="Give weights of a DiffIML.",
            )
        rows.append({"arm": arm, **_arm(common, named, changed, cases, seeds)})
        about = head("ablation", localizer)
        shown.append({key: about[key] for key in ("model", "weights_sha256", "settings")})
    document = {
        "kind": "ablation",
        "version": VERSION,
        "what": what,
        "pictures": len(cases),
        "seeds": seeds,
        "arms": shown,
        "rows": rows,
    }
    return Measured(known(document))


def _arm(
    common: Common,
    named: tuple[str, str | None],
    changed: dict[str, int],
    cases: Sequence[Entry],
    seeds: int,
) -> dict[str, Any]:
    """Score one arm with each seed; the row is that of the first, with the spread over all."""
    from imlctl.bench.accuracy import evaluate
    from imlctl.bench.summary import summarize

    rows = []
    start = time.perf_counter()
    for seed in range(common.seed, common.seed + seeds):
        localizer = common.localizer(named, **changed, seed=seed)
        answers = evaluate(cases, _answering(localizer), rule=rule_of(localizer))
        pictures = list(watched(answers, len(cases)))
        rows.append(summarize(pictures, resamples=common.resamples, seed=common.seed)[-1])
    seconds = (time.perf_counter() - start) / (seeds * len(cases))
    spread = stdev(row.f1 for row in rows) if seeds > 1 else None
    return asdict(rows[0]) | {"spread": spread, "seconds": seconds}


def _answering(localizer: Localizer) -> Callable[[Path], Any]:
    return lambda path: answer_of(localizer, path)


@dataclass(slots=True)
class _Side:
    """One detector: how it is run, and what came of it."""

    name: str
    command: Command
    seconds: list[float] = field(default_factory=list)
    scores: list[PictureScore] = field(default_factory=list)


def beside(common: Common, place: Path, command: str) -> Measured:
    """Ours and a peer on the same pictures, in turns."""
    import tempfile
    from pathlib import Path

    from imlctl.bench.page import known
    from imlctl.bench.peer import Command, ratio_of, rule_of_maps
    from imlctl.bench.summary import summarize
    from imlctl.data.manifest import evaluation_pictures

    theirs = Command.parse(command)
    localizer = common.localizer()
    # One rule for both, since only maps are there to compare.
    rule = rule_of_maps(localizer.settings.threshold)
    cases = evaluation_pictures(place, split=common.split)
    sides = [_Side("imlctl", own_command(common)), _Side("peer", theirs)]
    failed: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="imlctl-peer-") as folder:
        for number, case in enumerate(watched([cases[0], *cases], len(cases) + 1)):
            try:
                took = [_one(side.command, case, rule, Path(folder)) for side in sides]
            except InputError as error:
                if number:
                    failed.append({"image": str(case.image), "error": str(error)})
                continue
            for side, (seconds, score) in zip(sides, took if number else [], strict=bool(number)):
                side.seconds.append(seconds)
                side.scores.append(score)
    if not sides[0].scores:
        raise InputError(failed[0]["error"] if failed else "the peer scored no picture")
    rows = [
        {
            **asdict(summarize(side.scores, resamples=common.resamples, seed=common.seed)[-1]),
            "name": side.name,
            "seconds": mean(side.seconds),
        }
        for side in sides
    ]
    ours, peers = sides
    gains = [a.f1 - b.f1 for a, b in zip(ours.scores, peers.scores, strict=True) if a.tampered]
    document = {
        **head("peer", localizer),
        "command": command,
        "rows": rows,
        "ratio": asdict(ratio_of(ours.seconds, peers.seconds)),
        "f1_gain": mean(gains) if gains else None,
        "failed": failed,
    }
    return Measured(known(document))


def _one(command: Command, case: Entry, rule: Rule, folder: Path) -> tuple[float, PictureScore]:
    from imlctl.bench.accuracy import score_picture
    from imlctl.bench.peer import as_answer, read_map, timed
    from imlctl.data.masks import read_mask
    from imlctl.image.decode import read
    from imlctl.image.prepare import upright

    out = folder / "map.png"
    out.unlink(missing_ok=True)
    seconds = timed(lambda: command.run(case.image, out))
    photo = read(case.image)
    shape = upright(photo.pixels, photo.facts.orientation).shape[:2]
    masks = [None if m is None else read_mask(m) for m in (case.mask, case.source)]
    answer = as_answer(read_map(out, shape))
    return seconds, score_picture(case, answer, rule, *masks, threshold=rule.threshold)


def own_command(common: Common) -> Command:
    """Our own command line for one picture, with the same settings."""
    from imlctl.bench.peer import Command

    how = common.sampling()
    model, weights = common.named[0]
    words = [sys.executable, "-c", "from imlctl.cli import main; main()", "localize", "{image}"]
    words += ["--out", "{out}", "--soft", "--quiet", "--device", common.device]
    words += ["--model", model] if model else []
    words += ["--weights", weights] if weights else []
    words += ["--tile", str(common.tile), "--steps", str(how.steps)]
    words += ["--ensemble", str(how.ensemble), "--seed", str(how.seed)]
    words += ["--tta", "--tta-fusion", how.fusion] if how.tta else []
    return Command(tuple(words))
