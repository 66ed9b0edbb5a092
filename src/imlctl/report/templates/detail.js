// Everything about one picture: what was found, with what, and where the file says it comes from.

const FEW_REGIONS = 8;

/** Fill the page's right half with a picture. */
async function showDetail(index) {
  view.index = index;
  byId("canvas").ariaBusy = "true";
  byId("detail").classList.toggle("waiting", !isRead(index));
  const details = await detailsOf(index);
  if (view.index !== index) return;
  byId("detail").classList.remove("waiting");
  const [folder, name] = split(details.path);
  byId("name").replaceChildren(make("bdi", { className: "folder", text: visible(folder) }), make("bdi", { text: visible(name) }));
  byId("chip").replaceChildren(chip(details.verdict));
  byId("finding").textContent = details.finding;
  byId("warnings").replaceChildren(...details.warnings.map((text) => make("li", { text })));
  byId("problem").hidden = !details.error;
  byId("what").textContent = details.error ? `${details.error.what.charAt(0).toUpperCase()}${details.error.what.slice(1)}.` : "";
  byId("remedy").textContent = details.error?.remedy ?? "";
  byId("detail").hidden = false;
  byId("viewer").hidden = !byId(`p${index}`);
  byId("regions").hidden = Boolean(details.error);
  showRegions(details, FEW_REGIONS);
  byId("facts").replaceChildren(...details.groups.map(group));
  flicker(false);
  if (!await loadView(index, details)) return;
  byId("canvas").ariaLabel = `${visible(name)}: ${VERDICT_WORDS[details.verdict]}`;
  offerParts(details);
  offerViews(details);
  setUpThreshold(details);
  applyMode(view.mode === "views" && !details.views.length ? "overlay" : view.mode);
  drawNow();
  byId("canvas").ariaBusy = "false";
}

/** Make a button for the whole picture and for each region that is kept at full size. */
function offerParts(details) {
  const names = ["Whole picture", ...details.crops.map((_, i) => `Region ${i + 1}`)];
  byId("parts").hidden = names.length === 1;
  byId("parts").replaceChildren(...names.map((text, part) => {
    const button = make("button", { type: "button", text, "data-part": part, "aria-pressed": String(!part) });
    button.addEventListener("click", () => showPart(part));
    return button;
  }));
}

function offerViews(details) {
  byId("views-mode").hidden = !details.views.length;
  byId("view-name").replaceChildren(...details.views.map((name) => make("option", { value: name, text: summary.views[name]?.[0] ?? name })));
}

/** Show which of a group of buttons is chosen. */
function markPressed(key, value) {
  for (const button of document.querySelectorAll(`[data-${key}]`)) button.ariaPressed = String(button.dataset[key] === String(value));
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
  const left = (p) => p * 100;
  const top = (share) => share <= 0 ? 40 : Math.min(40, Math.max(0, -10 * Math.log10(share)));  // 100 % to 0.01 %
  const points = details.curve.map((share, i) => `${left(i / 100)},${top(share)}`);
  byId("curve").setAttribute("d", `M0,40 L${points.join(" L")} L100,40 Z`);
  byId("rules").setAttribute("d", `M${left(details.threshold)},0 V40`);
  byId("flag-mask").style.left = `${left(details.threshold)}%`;
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
  byId("now").setAttribute("d", `M${threshold * 100},0 V40`);
}

function setThreshold(p) {
  if (!view.details?.curve.length) return;
  view.threshold = Math.min(0.999, Math.max(0.001, Number(p.toFixed(4))));
  byId("threshold").value = view.threshold;
  showThreshold();
  draw();
}

function applyMode(mode) {
  if (mode === "views" && !view.details?.views.length) return;
  view.mode = mode;
  markPressed("mode", mode);
  byId("viewer").dataset.mode = mode;
  const strength = view.opacity[mode];
  byId("opacity").disabled = strength === undefined;
  if (strength !== undefined) byId("opacity").value = strength;
  byId("opacity-value").textContent = strength === undefined ? "" : `${strength}\u202f%`;
  byId("views").hidden = mode !== "views";
  if (mode !== "views") flicker(false);
  else {
    if (view.source !== view.whole) showPart(0);
    if (!view.other) showView(view.details.views[0]);
  }
  draw();
}

// --- regions --------------------------------------------------------------------------------------

function showRegions(details, limit) {
  const pixels = details.size[0] ? details.size[0] * details.size[1] : 1;
  const listed = details.regions.slice(0, limit);
  byId("region-rows").replaceChildren(...listed.map((region, i) => {
    const row = make("tr", { tabIndex: 0 }, ...[
      String(i + 1), `${grouped(region.area)} px`, percent(region.area / pixels), roundedDown(region.mean_probability),
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
    if (i < details.crops.length) {
      row.title = "Click to see this region at full size";
      row.addEventListener("click", () => showPart(i + 1));
      row.addEventListener("keydown", (event) => event.key === "Enter" && showPart(i + 1));
    }
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

// --- facts ----------------------------------------------------------------------------------------

/** Make a titled list of facts. */
function group({ title, facts, remark, wide }) {
  const list = make("dl");
  for (const [name, value, kind] of facts) {
    if (kind === "table") {
      list.append(make("dd", { className: "alone" }, make("details", {}, make("summary", { text: name }), make("pre", { text: value }))));
      continue;
    }
    if (name) list.append(make("dt", { text: name }));
    list.append(make("dd", { className: name ? kind : "alone" }, make("bdi", { text: visible(value) })));
  }
  const parts = [make("h3", { text: title }), list];
  if (remark) parts.push(make("p", { className: "hint", text: remark }));
  return make("section", { className: wide ? "wide" : "" }, ...parts);
}
