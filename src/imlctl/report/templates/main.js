// Where a person acts: pointer, keys, address, theme, paper.

const typing = (target) => target instanceof HTMLElement && target.matches("input[type=search], select");

/** Select a picture; on a small screen it covers the list, and the browser's Back leads out of it. */
function select(index, { open = false } = {}) {
  if (index === undefined || index < 0) return;
  const hash = `#${index}`;
  if (location.hash === hash) follow();
  else if (open && !wide.matches && !location.hash) location.hash = hash;
  else location.replace(hash);
}

function follow() {
  const index = /^#\d+$/.test(location.hash) ? Number(location.hash.slice(1)) : -1;
  const known = index >= 0 && index < rows.length;
  document.body.classList.toggle("open", known);
  if (!known) return;
  const another = index !== table.selected;
  table.selected = index;
  reveal(index);
  showPosition();
  if (another || view.index < 0) {
    byId("detail").scrollTop = 0;
    showDetail(index);
  }
}

/** Say which of the pictures that are listed is open. */
function showPosition() {
  const place = table.shown.indexOf(table.selected);
  byId("position").textContent = place < 0 ? "not in the filtered list" : `${grouped(place + 1)} of ${grouped(table.shown.length)}`;
}

/** After another filter: beside the list, open the first picture that is still listed. */
function followFilter() {
  if (table.selected < 0) return;
  if (wide.matches && !table.shown.includes(table.selected)) {
    byId("detail").hidden = !table.shown.length;
    if (table.shown.length) select(table.shown[0]);
  } else if (wide.matches) byId("detail").hidden = false;
  showPosition();
}

function step(by) {
  const place = table.shown.indexOf(table.selected);
  select(table.shown[Math.min(table.shown.length - 1, Math.max(0, place < 0 ? 0 : place + by))]);
}

function leave() {
  if (!wide.matches && location.hash) history.length > 1 ? history.back() : location.replace("#");
}

const page = () => Math.max(1, Math.floor(byId("grid").clientHeight / rowHeight()) - 2);
const COMMANDS = {
  "ArrowDown": () => step(1), "j": () => step(1), "ArrowUp": () => step(-1), "k": () => step(-1),
  "PageDown": () => step(page()), "PageUp": () => step(-page()),
  "Home": () => select(table.shown[0]), "End": () => select(table.shown.at(-1)),
  "Enter": () => select(table.selected < 0 ? table.shown[0] : table.selected, { open: true }),
  "Escape": leave,
  "1": () => applyMode("overlay"), "2": () => applyMode("side"), "3": () => applyMode("heat"), "4": () => applyMode("original"),
  "5": () => applyMode("views"), "f": () => view.mode === "views" && flicker(!flickering),
  "[": () => setThreshold(view.threshold - 0.01), "]": () => setThreshold(view.threshold + 0.01),
  "0": () => view.details && setThreshold(view.details.threshold),
  "/": () => byId("search").focus(), "t": () => turnTheme(), "?": () => byId("help").showModal(),
};

function onKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "p") {
    event.preventDefault();
    printAll();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (typing(event.target)) {
    if (event.key === "Escape" || event.key === "Enter") byId("grid").focus();
    return;
  }
  const onControl = event.target.matches?.("button, summary, a, input[type=range], tr");
  if (onControl && ["Enter", "Home", "End", "PageUp", "PageDown"].includes(event.key)) return;
  if (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (event.key === " " && !onControl) {
    event.preventDefault();
    hold(true);
  } else if (Object.hasOwn(COMMANDS, event.key)) {
    event.preventDefault();
    COMMANDS[event.key]();
  }
}

function hold(held) {
  if (view.held === held) return;
  view.held = held;
  draw();
}

// --- theme ----------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme-name").textContent = theme;
  try {
    localStorage.setItem("imlctl-theme", theme);
  } catch { /* a page that may keep nothing asks again */ }
}

function turnTheme() {
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
}

function keptTheme() {
  try {
    return THEMES.find((theme) => theme === localStorage.getItem("imlctl-theme")) ?? "auto";
  } catch {
    return "auto";
  }
}

// --- the head of the page -------------------------------------------------------------------------

function introduce() {
  const counts = { "": rows.length };
  for (const row of rows) counts[row[VERDICT]] = (counts[row[VERDICT]] ?? 0) + 1;
  for (const button of document.querySelectorAll("[data-verdict]")) {
    const count = counts[button.dataset.verdict] ?? 0;
    button.querySelector("b").textContent = grouped(count);
    button.disabled = !count;
  }
}

function connect() {
  const on = (id, type, action) => byId(id).addEventListener(type, action);
  on("rows", "click", (event) => {
    const row = event.target.closest("[data-index]");
    if (row) select(Number(row.dataset.index), { open: true });
  });
  for (const header of document.querySelectorAll("[data-key] button")) {
    header.addEventListener("click", () => sortBy(header.parentElement.dataset.key));
  }
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => filterVerdict(button.dataset.verdict));
  }
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.addEventListener("click", () => applyMode(button.dataset.mode));
  }
  on("search", "input", (event) => filterWords(event.target.value));
  on("clear", "click", () => {
    byId("search").value = "";
    table.words = [];
    filterVerdict("");
  });
  on("sort-by", "change", (event) => {
    table.reversed = false;
    table.key = event.target.value;
    refreshTable();
  });
  on("opacity", "input", (event) => {
    view.opacity[view.mode] = Number(event.target.value);
    applyMode(view.mode);
  });
  on("threshold", "input", (event) => setThreshold(Number(event.target.value)));
  on("reset", "click", () => setThreshold(view.details.threshold));
  on("canvas", "pointermove", probe);
  on("canvas", "pointerleave", () => (byId("probe").hidden = true));
  on("canvas", "pointerdown", () => hold(true));
  for (const end of ["pointerup", "pointercancel", "blur"]) window.addEventListener(end, () => hold(false));
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("back", "click", leave);
  on("theme", "click", turnTheme);
  on("help-open", "click", () => byId("help").showModal());
  on("help-close", "click", () => byId("help").close());
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => event.key === " " && hold(false));
  window.addEventListener("hashchange", follow);
  on("grid", "scroll", drawRows);
  window.addEventListener("scroll", drawRows, { passive: true });
  new ResizeObserver(() => {
    drawRows();
    drawNow();
  }).observe(byId("main"));
  wide.addEventListener("change", () => refreshTable());
  on("view-name", "change", (event) => showView(event.target.value));
  on("flicker", "click", () => flicker(!flickering));
  on("print", "click", printAll);
  window.addEventListener("beforeprint", prepareSheets);
  window.addEventListener("afterprint", () => {
    byId("print").textContent = "Print";
    if (table.printing) unprintRows();
  });
}

/** Show pictures as they are read, which takes seconds where there are thousands. */
function keepFilling() {
  if (!reading()) return;
  const clock = setInterval(fillRows, 250);
  document.addEventListener("DOMContentLoaded", () => {
    clearInterval(clock);
    fillRows();
    drawSheets();
  });
}

// --- paper ----------------------------------------------------------------------------------------

const PAPER_SIDE = 900;
const sheets = new Map();  // pictures that are drawn for paper, or are being drawn

/** Draw the figures of a picture's sheet, once. */
function drawSheet(index) {
  if (!sheets.has(index)) sheets.set(index, (async () => {
    const images = document.querySelectorAll(`#s${index} .pair img`);
    if (!images.length) return;
    const details = await detailsOf(index), threshold = rows[index][THRESHOLD];
    // Photograph and map of the whole, then crops, in which the outline alone is drawn.
    for (const [place, image] of images.entries()) {
      const source = await sourceOf(index, details, Number(image.dataset.crop ?? 0));
      const mode = place === 1 ? "heat" : "overlay", opacity = [22, 100][place] ?? 0;
      image.src = drawn(source, PAPER_SIDE, { mode, opacity, threshold, scale: place < 2 ? 1.5 : 0.75 });
    }
    await Promise.all([...images].map((image) => image.decode()));
  })());
  return sheets.get(index);
}

/** Put on paper what the list shows; figures that are not drawn yet are missing, so `printAll` draws them first. */
function prepareSheets() {
  const shown = new Set(table.shown);
  rows.forEach((_, index) => {
    const sheet = byId(`s${index}`);
    if (sheet) sheet.hidden = !shown.has(index);
  });
  if (!byId("s0")) printRows();
}

async function printAll() {
  for (const [place, index] of table.shown.entries()) {
    if (!byId(`s${index}`)) break;
    byId("print").textContent = `Drawing ${grouped(place + 1)} of ${grouped(table.shown.length)}`;
    await drawSheet(index);
  }
  window.print();
}

/** Draw the sheets while nothing else is to do, so that the browser's own command prints them too. */
async function drawSheets() {
  for (const index of table.shown) {
    if (!byId(`s${index}`)) return;
    await drawSheet(index);
    await new Promise((resume) => (window.requestIdleCallback ?? setTimeout)(resume));
  }
}

setTheme(keptTheme());
introduce();
drawScale();
connect();
refreshTable();
follow();
keepFilling();
if (wide.matches && table.selected < 0) select(table.shown[0]);
