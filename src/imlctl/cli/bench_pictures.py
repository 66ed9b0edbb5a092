"""`imlctl bench --f1`, `--robustness`, `--calibrate` and `--compare`: what they run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from imlctl.cli.bench_run import answer_of, head, rule_of, watched
from imlctl.cli.bench_show import VERSION, Measured
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imlctl.bench.accuracy import Rule
    from imlctl.bench.summary import PictureScore, SetScore
    from imlctl.cli.bench_run import Common
    from imlctl.data.manifest import Entry
    from imlctl.evaluate.robustness import Degradation
    from imlctl.pipeline import Localizer


def on_pictures(common: Common, place: Path, *, ablate: str, peer: str) -> Measured:
    """Accuracy, an ablation of it, or beside a peer."""
    from imlctl.cli.bench_trials import ablation, beside

    if ablate and peer:
        raise UsageError("one at a time", source="--ablate and --peer")
    if ablate:
        return ablation(common, place, ablate)
    return beside(common, place, peer) if peer else accuracy(common, place)


def published() -> Measured:
    """Published figures alone."""
    return Measured({"kind": "published", "version": VERSION})


def accuracy(common: Common, place: Path) -> Measured:
    """Accuracy on a tree or a manifest."""
    from imlctl.bench.accuracy import evaluate, summarize
    from imlctl.bench.page import known
    from imlctl.bench.sheet import Shown, contact_sheet
    from imlctl.bench.summary import pool
    from imlctl.data.manifest import evaluation_pictures
    from imlctl.data.masks import read_mask

    localizer = common.localizer()
    rule = rule_of(localizer)
    cases = evaluation_pictures(place, split=common.split)
    threshold = localizer.settings.threshold
    answers = evaluate(
        cases, lambda path: answer_of(localizer, path), rule=rule, threshold=threshold
    )
    pictures = list(watched(answers, len(cases)))
    sets = summarize(pictures, resamples=common.resamples, seed=common.seed)
    if len(sets) > 1:
        sets.append(pool(pictures, resamples=common.resamples, seed=common.seed))

    def show(index: int) -> Shown:
        case = cases[index]
        result = localizer.localize(case.image)
        return Shown(result.pixels, read_mask(cast("Path", case.mask)), result.probability)

    document = {
        **head("accuracy", localizer),
        "rule": asdict(rule),
        "threshold": threshold,
        "resamples": common.resamples,
        "sets": [asdict(row) for row in sets],
        "pictures": [asdict(row) for row in pictures],
    }
    sheet = contact_sheet(pictures, show) if common.pictures else None
    return Measured(known(document), {"cases.png": sheet} if sheet else {})


def calibrate(common: Common, place: Path) -> Measured:
    """Find thresholds on authentic pictures, and keep them for these weights."""
    from imlctl.bench.thresholds import drawn_with, keep, thresholds_for
    from imlctl.data.manifest import authentic_pictures
    from imlctl.mask.score import EVIDENCE, critical

    localizer = common.localizer()
    cases = authentic_pictures(place, split=common.split)
    values = [
        critical(answer_of(localizer, case.image).probability, EVIDENCE)
        for case in watched(cases, len(cases))
    ]
    rates = thresholds_for(values, resamples=common.resamples, seed=common.seed)
    start = head("calibration", localizer)
    kept = keep(start["weights_sha256"], drawn_with(start["settings"]), values)
    document = {
        **start,
        "pictures": len(values),
        "rates": [asdict(row) for row in rates],
        "kept_in": str(kept),
    }
    return Measured(document)


def robustness(common: Common, place: Path) -> Measured:
    """Accuracy after each degradation of the grid."""
    from imlctl.bench.page import known
    from imlctl.bench.plot import charts
    from imlctl.data.manifest import evaluation_pictures
    from imlctl.evaluate.robustness import NOTES, grid

    localizer = common.localizer()
    cases = evaluation_pictures(place, split=common.split)
    degradations = grid()
    scores: dict[Degradation, list[PictureScore]] = {each: [] for each in degradations}
    for case in watched(cases, len(cases)):
        for degradation, score in _degraded(localizer, case, degradations, common.seed):
            scores[degradation].append(score)
    rows: list[dict[str, Any]] = []
    for degradation, pictures in scores.items():
        overall = _overall(pictures, common)
        clean = rows[0]["f1"] if rows else overall.f1
        kept = overall.f1 / clean if clean else None
        about = {"kind": degradation.kind, "level": degradation.level, "kept": kept}
        rows.append(about | asdict(overall))
    document = {
        **head("robustness", localizer),
        "rule": asdict(rule_of(localizer)),
        "threshold": localizer.settings.threshold,
        "resamples": common.resamples,
        "pictures": len(cases),
        "notes": list(NOTES),
        "rows": rows,
    }
    shown = known(document)
    panels = robustness_panels(shown["rows"])
    return Measured(shown, {"robustness.png": charts(panels)} if panels else {})


def _overall(pictures: Sequence[PictureScore], common: Common) -> SetScore:
    from imlctl.bench.summary import summarize

    return summarize(pictures, resamples=common.resamples, seed=common.seed)[-1]


def _degraded(
    localizer: Localizer, case: Entry, degradations: Sequence[Degradation], seed: int
) -> Iterator[tuple[Degradation, PictureScore]]:
    from imlctl.bench.accuracy import Answer, score_picture
    from imlctl.data.masks import read_mask
    from imlctl.evaluate.robustness import eight_bit, follow

    rule: Rule = rule_of(localizer)
    truth = None if case.mask is None else read_mask(case.mask)
    source = None if case.source is None else read_mask(case.source)
    original = localizer.localize(case.image)
    pixels = eight_bit(original.pixels)
    for each in degradations:
        answer = Answer(original.probability, original.score)
        if each.change is not None:
            data = each(pixels, seed=seed, key=bytes.fromhex(original.photo.sha256))
            answer = answer_of(localizer, data, name=str(case.image))
        shape = answer.probability.shape
        masks = [None if m is None else follow(m, shape) for m in (truth, source)]
        yield (
            each,
            score_picture(case, answer, rule, *masks, threshold=localizer.settings.threshold),
        )


def robustness_panels(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """One panel for each kind of degradation with more than one level; none without a value."""
    from imlctl.bench.plot import Panel

    clean = rows[0]["f1"]
    if clean is None:
        return []
    panels = []
    for kind in dict.fromkeys(row["kind"] for row in rows[1:]):
        mine = [row for row in rows if row["kind"] == kind]
        panels.append(
            Panel(
                f"F1 after {kind}",
                "level; dashed: the clean files",
                [row["level"] for row in mine],
                [row["f1"] for row in mine],
                [row["intervals"].get("f1") for row in mine],
                level=clean,
            )
        )
    return panels
