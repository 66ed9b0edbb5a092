// Everything about one picture: what was found, with what, and where the file says it comes from.

const FEW_REGIONS = 8, PRINTED_REGIONS = 40;

/** Fill the page's right half with a picture. */
async function showDetail(index) {
  view.index = index;
  byId("detail").classList.toggle("waiting", !isRead(index));
  const details = await detailsOf(index);
  if (view.index !== index) return;
  byId("detail").classList.remove("waiting");
  const [folder, name] = split(details.path);
  byId("name").replaceChildren(make("bdi", { className: "folder", text: visible(folder) }), make("bdi", { text: visible(name) }));
  byId("chip").replaceChildren(chip(details.verdict));
  byId("finding").textContent = findingOf(details);
  byId("problem").hidden = !details.error;
  byId("what").textContent = details.error ? `${details.error.what.charAt(0).toUpperCase()}${details.error.what.slice(1)}.` : "";
  byId("remedy").textContent = details.error?.remedy ?? "";
  byId("detail").hidden = false;
  byId("viewer").hidden = byId("figures").hidden = !byId(`p${index}`);
  byId("regions").hidden = Boolean(details.error);
  showRegions(details, FEW_REGIONS);
  byId("provenance").replaceChildren(...provenanceOf(details));
  if (!await loadView(index, details)) return;
  byId("canvas").ariaLabel = `${visible(name)}: ${VERDICT_WORDS[details.verdict]}`;
  setUpThreshold(details);
  applyMode(view.mode);
}

function findingOf(details) {
  if (details.error) return "";
  const parts = [`score ${roundedDown(details.score)}`];
  if (details.rates_in_words) parts.push(details.rates_in_words);
  parts.push(`${percent(details.share)} of pixels marked, at ${fromP(details.threshold)}`);
  if (details.unreliable_share >= 0.1) parts.push(`cannot speak here: ${percent(details.unreliable_share)} of this picture`);
  return [...parts, ...details.cautions.map((caution) => `caution: ${caution}`)].join("; ");
}

/** Say how much of the full-size map is at or over p; the curve has steps of 0.01. */
function shareAt({ curve }, p) {
  const place = 100 * p, below = Math.floor(place + 1e-9), above = Math.ceil(place - 1e-9);
  if (curve[below] === curve[above]) return percent(curve[below]);
  return `about ${percent(curve[below] + (curve[above] - curve[below]) * (place - below))}`;
}

// --- threshold ------------------------------------------------------------------------------------

/** Draw how much is marked at each threshold. */
function setUpThreshold(details) {
  byId("threshold-box").hidden = !details.curve.length;
  byId("threshold").value = view.threshold;
  if (!details.curve.length) return;
  const left = (p) => Math.min(100, Math.max(0, (p - 0.01) / 0.98 * 100));
  const top = (share) => share <= 0 ? 40 : Math.min(40, Math.max(0, -10 * Math.log10(share)));  // 100 % to 0.01 %
  const points = details.curve.slice(1, 100).map((share, i) => `${left((i + 1) / 100)},${top(share)}`);
  byId("curve").setAttribute("d", `M0,40 L${points.join(" L")} L100,40 Z`);
  byId("rules").setAttribute("d", `M${left(details.threshold)},0 V40`);
  byId("flag-mask").style.left = `${left(details.threshold)}%`;
  byId("plot-hint").textContent = "How much of the picture is at or over p. Moving the threshold redraws the mask; the verdict stays.";
  showThreshold();
}

/** Say what the slider stands at. */
function showThreshold() {
  const { details, threshold } = view;
  const recorded = Math.abs(threshold - details.threshold) < 1e-9;
  byId("threshold-value").textContent = `${fromP(threshold)}`;
  byId("share-now").textContent = `${shareAt(details, threshold)} marked`;
  byId("reset").hidden = recorded;
  byId("threshold-box").classList.toggle("tried", !recorded);
  byId("threshold").ariaValueText = `${probability(threshold)}, ${shareAt(details, threshold)} of pixels`;
  byId("now").setAttribute("d", `M${(threshold - 0.01) / 0.98 * 100},0 V40`);
}

function setThreshold(p) {
  if (!view.details?.curve.length) return;
  view.threshold = Math.min(0.99, Math.max(0.01, Number(p.toFixed(4))));
  byId("threshold").value = view.threshold;
  showThreshold();
  draw();
}

function applyMode(mode) {
  view.mode = mode;
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.ariaPressed = String(button.dataset.mode === mode);
  }
  byId("viewer").dataset.mode = mode;
  byId("opacity").disabled = mode === "original";
  if (mode !== "original") byId("opacity").value = view.opacity[mode];
  byId("opacity-value").textContent = mode === "original" ? "" : `${view.opacity[mode]}\u202f%`;
  draw();
}

// --- regions --------------------------------------------------------------------------------------

function showRegions(details, limit) {
  const pixels = details.size[0] ? details.size[0] * details.size[1] : 1;
  const listed = details.regions.slice(0, limit);
  byId("region-rows").replaceChildren(...listed.map((region, i) => {
    const row = make("tr", { tabIndex: 0 }, ...[
      String(i + 1), `${grouped(region.area)} px`, percent(region.area / pixels), fixed(region.mean_probability),
      `${region.box[0]}, ${region.box[1]}, ${region.box[2]} \u00d7 ${region.box[3]}`,
    ].map((text) => make("td", { text })));
    const point = (box) => () => {
      view.box = box;
      draw();
    };
    row.addEventListener("pointerenter", point(region.box));
    row.addEventListener("pointerleave", point(null));
    row.addEventListener("focus", point(region.box));
    row.addEventListener("blur", point(null));
    return row;
  }));
  byId("regions").classList.toggle("none", !listed.length);
  const rest = details.regions_not_listed ?? { count: 0, area: 0 };
  const notes = [];
  if (!details.regions_found) notes.push("none large enough to list");
  else notes.push(plural(details.regions_found, "region", "regions"));
  if (rest.count) notes.push(`${plural(rest.count, "speck", "specks")} not listed (${grouped(rest.area)} px)`);
  byId("regions-note").textContent = notes.join(", ");
  const hidden = details.regions.length - listed.length;
  byId("more-regions").hidden = !hidden;
  byId("more-regions").textContent = `Show ${grouped(hidden)} more`;
  byId("more-regions").onclick = () => showRegions(details, Infinity);
}

// --- provenance -----------------------------------------------------------------------------------

/** Make titled lists of facts; what is not known is left out. */
function provenanceOf(details) {
  const facts = details.facts ?? {}, traces = facts.provenance ?? {};
  return [
    ...(details.warnings?.length ? [group("Notes", details.warnings.map((text) => ["", text]), { wide: true })] : []),
    group("File", fileFacts(details, traces), { wide: true }),
    group("Picture", pictureFacts(facts, traces)),
    group("Camera and software, by EXIF", exifFacts(facts, traces), { remark: "Anybody can write or remove EXIF." }),
    group("Analysis", analysisFacts(details), { wide: true }),
  ].filter(Boolean);
}

function group(title, entries, { remark = "", wide = false } = {}) {
  const known = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (!known.length) return null;
  const list = make("dl");
  for (const [name, value, className = ""] of known) {
    if (name) list.append(make("dt", { text: name }));
    const shown = value instanceof Node ? value : make("bdi", { text: visible(value) });
    list.append(make("dd", { className: name ? className : "alone" }, shown));
  }
  const parts = [make("h3", { text: title }), list];
  if (remark) parts.push(make("p", { className: "hint", text: remark }));
  return make("section", { className: wide ? "wide" : "" }, ...parts);
}

const fileFacts = (details, traces) => [
  ["Path", details.path],
  ["Path in bytes", details.path_bytes, "hash"],
  ["Size", traces.bytes === undefined ? null : fileSize(traces.bytes)],
  ["SHA-256", details.sha256, "hash"],
  ["SHA-256 of pixels", traces.pixels_sha256, "hash"],
];

function pictureFacts(facts, traces) {
  if (!facts.format) return [];
  const jpeg = traces.jpeg;
  const quality = jpeg?.quality && (jpeg.standard
    ? `${jpeg.quality}, exactly libjpeg\u2019s tables`
    : `about ${jpeg.quality}; the tables are not libjpeg\u2019s`);
  return [
    ["Format", [facts.format, jpeg?.progressive ? "progressive" : "", jpeg?.subsampling].filter(Boolean).join(", ")],
    ["Stored size", `${facts.width} \u00d7 ${facts.height} px`],
    ["Orientation", facts.orientation === 1 ? null : `${facts.orientation}; turned upright here`],
    ["Samples", `${facts.mode}, ${facts.bit_depth} bits`],
    ["Frames", facts.frames === 1 ? null : `${facts.frames}, one analysed`],
    ["Colour profile", facts.icc_profile ? "embedded, not applied" : null],
    ["Transparency", facts.alpha ? "present, ignored" : null],
    ["JPEG quality", quality],
    ["Quantisation", jpeg?.tables?.length ? tables(jpeg.tables) : null],
    ["C2PA manifest", traces.c2pa === undefined ? null : traces.c2pa ? "embedded; its signatures are not verified here" : "none embedded"],
  ];
}

function tables(all) {
  const squares = all.map(({ slot, values }) => {
    const lines = [0, 1, 2, 3, 4, 5, 6, 7].map((row) =>
      values.slice(8 * row, 8 * row + 8).map((value) => String(value).padStart(4)).join(""));
    return make("pre", { text: `table ${slot}\n${lines.join("\n")}` });
  });
  return make("details", {}, make("summary", { text: plural(all.length, "table", "tables") }), ...squares);
}

function exifFacts(facts, traces) {
  const exif = traces.exif;
  if (!exif) return facts.format ? [["", "None in the file."]] : [];
  const turned = exif.width === facts.height && exif.height === facts.width;
  const other = exif.width && exif.height && !turned && (exif.width !== facts.width || exif.height !== facts.height);
  return [
    ["Camera", exif.model?.startsWith(exif.make) ? exif.model : [exif.make, exif.model].filter(Boolean).join(" ")],
    ["Lens", exif.lens],
    ["Software", exif.software],
    ["Taken", exif.taken],
    ["Changed", exif.modified],
    ["Size by EXIF", exif.width && exif.height ? `${exif.width} \u00d7 ${exif.height} px${other ? "; the file has another size" : ""}` : null],
    ["Position", exif.gps ? "recorded in the file" : null],
    ["Thumbnail", exif.thumbnail ? "embedded; may show an earlier state" : null],
  ];
}

function analysisFacts(details) {
  return [
    ["Model", details.model],
    ["Weights SHA-256", details.weights_sha256, "hash"],
    ["Rule", details.rule && `manipulated from score ${details.rule.manipulated}, inconclusive from ${details.rule.inconclusive}`],
    ["Threshold", details.threshold === null ? null : `mask at ${fromP(details.threshold)}`],
    ["Measured on", details.rates?.pictures],
    ["Score", details.score === null ? null : fixed(details.score, 3)],
    ["Settings", Object.entries(details.settings ?? {}).map(([key, value]) => `${key} ${JSON.stringify(value)}`).join(", ")],
    ["Seed", String(details.seed)],
    ["Device", details.device],
    ["Time", [`${details.seconds} s`, ...Object.entries(details.timings ?? {}).map(([stage, s]) => `${stage} ${s}`)].join(", ")],
    ["Versions", Object.entries(details.versions ?? {}).map(([name, version]) => `${name} ${version}`).join(", ")],
  ];
}
