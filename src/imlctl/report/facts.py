"""Titled lists of facts about a picture, from its record, as a report shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from imlctl.mask.rates import SIZES, in_words
from imlctl.mask.render import percent, rounded_down
from imlctl.record import FAILED

Fact = tuple[str, str, str]  # name, value, and how it is set: "", "hash" or "table"
Group = dict[str, Any]  # title, remark, wide, whether it is for the screen alone, facts

SILENT = 0.1  # of a picture: where the map cannot be believed there, a reader is told so
_HASH = "hash"
_FORGEABLE = "Anybody can write or remove EXIF."
_COMPRESSED = {
    "once": "as JPEG before it became this file, perhaps more than once",
    "twice": "at least twice, on two grids",
    "not decidable": "once or more often: the pixels do not tell which",
}
_HARMLESS = "Facts and no verdict: a camera, a messenger or an honest export explains most of them."


def groups_of(record: Mapping[str, Any]) -> list[Group]:
    """Return the facts in groups; unknown facts and empty groups are left out."""
    facts = record.get("facts") or {}
    traces = facts.get("provenance") or {}
    failed = record["verdict"] == FAILED
    groups = [
        _group("Notes", _plain(record["warnings"]), wide=True),
        _group("File", _file(record, traces), wide=True),
        _group("To look into", _plain(traces.get("flags", ())), remark=_HARMLESS, wide=True),
        _group("Picture", _picture(facts, traces) if facts else ()),
        _group("JPEG history", _history(traces)),
        _group("Camera and software, by EXIF", _exif(facts, traces), remark=_FORGEABLE),
        _group("Content credentials (C2PA)", _plain(_credentials(traces))),
        _group("Embedded thumbnail", _thumbnail(traces.get("thumbnail"))),
        # A printed report has what follows on its cover.
        _group("Measured rates of this verdict", rates_of(record["rates"]), wide=True, screen=True),
        _group("Analysis", () if failed else _analysis(record), wide=True),
        _group("Model and versions", () if failed else _model(record), wide=True, screen=True),
    ]
    return [group for group in groups if group["facts"]]


def finding(record: Mapping[str, Any]) -> str:
    """Say what a verdict rests on, in one line; "" for a picture that failed."""
    if record["verdict"] == FAILED:
        return ""
    parts = [f"score {rounded_down(record['score'])}"]
    if record["rates"] is not None:
        parts.append(in_words(record["verdict"], record["rates"]))
    marked, threshold = percent(record["share"]), f"{record['threshold']:g}"
    return "; ".join([*parts, f"{marked} of pixels marked, at p \u2265 {threshold}"])


def warnings_of(record: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know before believing a verdict."""
    found = [f"Caution: {caution}." for caution in record["cautions"]]
    share = record["unreliable_share"]
    if share is not None and share >= SILENT:
        found.append(f"Cannot speak here: {percent(share)} of this picture.")
    return found


def _group(
    title: str, facts: Iterable[Fact], *, remark: str = "", wide: bool = False, screen: bool = False
) -> Group:
    known = [list(fact) for fact in facts if fact[1]]
    return {"title": title, "remark": remark, "wide": wide, "screen": screen, "facts": known}


def _plain(texts: Iterable[str]) -> Iterable[Fact]:
    return (("", text, "") for text in texts)


def _file(record: Mapping[str, Any], traces: Mapping[str, Any]) -> Iterable[Fact]:
    yield "Path", record["path"], ""
    yield "Path in bytes", record["path_bytes"] or "", _HASH
    yield "Size", "" if record["bytes"] is None else _size(record["bytes"]), ""
    yield "SHA-256", record["sha256"] or "", _HASH
    yield "SHA-256 of pixels", traces.get("pixels_sha256") or "", _HASH


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    scale, unit = (1e3, "kB") if count < 1e6 else (1e6, "MB")
    return f"{count / scale:.3g} {unit} ({count:,} bytes)"


def _picture(facts: Mapping[str, Any], traces: Mapping[str, Any]) -> Iterable[Fact]:
    jpeg = traces.get("jpeg") or {}
    kind = [facts["format"], "progressive" * bool(jpeg.get("progressive")), jpeg.get("subsampling")]
    turned, frames = facts["orientation"], facts["frames"]
    yield "Format", ", ".join(filter(None, kind)), ""
    yield "Stored size", f"{facts['width']} \u00d7 {facts['height']} px", ""
    yield "Orientation", "" if turned == 1 else f"{turned}; turned upright here", ""
    yield "Samples", f"{facts['mode']}, {facts['bit_depth']} bits", ""
    yield "Frames", "" if frames == 1 else f"{frames}, one analysed", ""
    yield "Colour profile", "embedded, not applied" if facts["icc_profile"] else "", ""
    yield "Transparency", "present, ignored" if facts["alpha"] else "", ""


def _history(traces: Mapping[str, Any]) -> Iterable[Fact]:
    jpeg, grid = traces.get("jpeg") or {}, traces.get("grid")
    if jpeg.get("quality"):
        exact = f"{jpeg['quality']}, exactly libjpeg\u2019s tables"
        near = f"about {jpeg['quality']}; the tables are not libjpeg\u2019s"
        yield "Last quality", exact if jpeg["standard"] else near, ""
    yield "Tables of", jpeg.get("program") or "", ""
    for table in jpeg.get("tables", ()):
        cells = [f"{value:4}" + "\n" * (at % 8 == 7) for at, value in enumerate(table["values"])]
        yield f"Quantisation table {table['slot']}", "".join(cells).rstrip(), "table"
    if jpeg or grid:
        yield "Compressed", _COMPRESSED[traces["compressions"]], ""
        shifted = "shifted by {} columns and {} rows".format(*grid or (0, 0))
        yield "8 \u00d7 8 grid", shifted if any(grid or ()) else "starts at the top left corner", ""
    if not jpeg:
        return
    yield "Segments", " ".join(jpeg["order"]), ""
    yield "Scans", "" if jpeg["scans"] == 1 else str(jpeg["scans"]), ""
    yield "Restart interval", str(jpeg["restart_interval"] or ""), ""
    if (jpeg["starts"], jpeg["ends"]) != (1, 1):
        several = f"{jpeg['starts']} starts and {jpeg['ends']} ends of an image"
        yield "More than one picture", several, ""
    yield "After the picture", f"{jpeg['trailing']:,} bytes" if jpeg["trailing"] else "", ""


def _credentials(traces: Mapping[str, Any]) -> Iterable[str]:
    if traces.get("c2pa"):
        by = traces.get("c2pa_generator") or "an unnamed program"
        yield f"A manifest by {by}; its signatures are not verified here."
    elif traces:
        yield "None in the file."


def _thumbnail(thumbnail: Mapping[str, Any] | None) -> Iterable[Fact]:
    if thumbnail is None:
        return
    same, apart = thumbnail["same_aspect"], thumbnail["difference"]
    usual = "0.01 to 0.04 of an untouched camera picture"
    yield "Size", f"{thumbnail['width']} \u00d7 {thumbnail['height']} px", ""
    yield "Proportions", f"{'' if same else 'other than '}the picture\u2019s", ""
    yield "Difference", "not decoded" if apart is None else f"{apart:.3f} of 1; some {usual}", ""


def _exif(facts: Mapping[str, Any], traces: Mapping[str, Any]) -> Iterable[Fact]:
    exif = traces.get("exif")
    if exif is None:
        yield "", "None in the file." if facts else "", ""
        return
    make, model = exif["make"] or "", exif["model"] or ""
    yield "Camera", model if make and model.startswith(make) else f"{make} {model}".strip(), ""
    for key in ("lens", "software", "taken"):
        yield key.capitalize(), exif[key] or "", ""
    yield "Changed", exif["modified"] or "", ""
    if exif["width"] and exif["height"]:
        stored = {facts["width"], facts["height"]}
        other = "" if {exif["width"], exif["height"]} == stored else "; the file has another size"
        yield "Size by EXIF", f"{exif['width']} \u00d7 {exif['height']} px{other}", ""
    yield "Position", "recorded in the file" if exif["gps"] else "", ""
    if "thumbnail" not in traces and exif.get("thumbnail"):
        yield "Thumbnail", "embedded; may show an earlier state", ""


def rates_of(rates: Mapping[str, Any] | None) -> Iterable[Fact]:
    """Yield the measured rates of a verdict, as a record has them."""
    if rates is None:
        return
    yield "Pictures", rates["pictures"], ""
    yield "Authentic pictures", _proportion(rates["authentic"]), ""
    yield "Forgeries", _proportion(rates["forgeries"]), ""
    for size in SIZES:
        yield f"\u2026 edited {size}", _proportion(rates["by_size"][size]), ""
    if rates["ratio"] is not None:
        yield "Ratio", f"{rates['ratio']:.3g} times as many forgeries as authentic pictures", ""


def _proportion(value: Mapping[str, Any]) -> str:
    if not value["of"]:
        return ""
    low, high = value["interval"]
    shown = percent(value["share"])
    return f"{value['count']} of {value['of']}: {shown} (95 %: {percent(low)} to {percent(high)})"


def _analysis(record: Mapping[str, Any]) -> Iterable[Fact]:
    yield "Model", f"{record['model']} ({record['weights_sha256'][:12]})", ""
    yield "Score", f"{record['score']:.4f}", ""
    yield "Threshold", f"mask at p \u2265 {record['threshold']:g}", ""
    settings = record["settings"].items()
    yield "Settings", ", ".join(f"{key} {json.dumps(value)}" for key, value in settings), ""
    yield "Seed", str(record["seed"]), ""
    yield "Device", record["device"], ""
    stages = [f"{stage} {seconds} s" for stage, seconds in record["timings"].items()]
    yield "Time", ", ".join([f"{record['seconds']} s", *stages]), ""


def _model(record: Mapping[str, Any]) -> Iterable[Fact]:
    low, high = record["rule"]["inconclusive"], record["rule"]["manipulated"]
    yield "Weights SHA-256", record["weights_sha256"], _HASH
    yield "Rule", f"manipulated from score {high:g}, inconclusive from {low:g}", ""
    yield "Versions", ", ".join(f"{k} {v}" for k, v in record["versions"].items()), ""
