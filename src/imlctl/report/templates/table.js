// The table: every picture can be reached, and only the rows in sight exist.

const ORDER = { "manipulated": 0, "inconclusive": 1, "failed": 2, "nothing found": 3 };
const OVERSCAN = 6;
const PRINTED_ROWS = 400;
const haystacks = rows.map((row) => `${row[NAME]} ${row[FORMAT] ?? ""} ${row[WORDS]}`.toLowerCase());
const collator = new Intl.Collator("en", { numeric: true });

const table = { shown: [], selected: -1, verdict: "", words: [], key: "verdict", reversed: false, live: new Map(), printing: false };

const byName = (a, b) => collator.compare(rows[a][NAME], rows[b][NAME]) || a - b;
const byNumber = (value) => (a, b) => (value(rows[b]) ?? -1) - (value(rows[a]) ?? -1) || byName(a, b);
const SORTS = {
  name: byName,
  verdict: (a, b) => ORDER[rows[a][VERDICT]] - ORDER[rows[b][VERDICT]] || SORTS.score(a, b),
  share: byNumber((row) => row[SHARE]),
  score: byNumber((row) => row[SCORE]),
  regions: byNumber((row) => row[REGIONS]),
  size: byNumber((row) => (row[WIDTH] ?? 0) * (row[HEIGHT] ?? 0)),
};
const orders = {};

/** Return all pictures in an order; each order is worked out once. */
function ordered(key) {
  orders[key] ??= rows.map((_, i) => i).sort(SORTS[key]);
  return table.reversed ? orders[key].toReversed() : orders[key];
}

/** Apply filter and order, and show the beginning. */
function refreshTable() {
  table.shown = ordered(table.key).filter((i) =>
    (!table.verdict || rows[i][VERDICT] === table.verdict) && table.words.every((word) => haystacks[i].includes(word)));
  byId("grid").setAttribute("aria-rowcount", table.shown.length + 1);
  byId("empty").hidden = table.shown.length > 0;
  byId("status").textContent = table.shown.length === rows.length
    ? plural(rows.length, "picture", "pictures")
    : `${grouped(table.shown.length)} of ${plural(rows.length, "picture", "pictures")}`;
  for (const header of document.querySelectorAll("[role=columnheader][data-key]")) {
    // Numbers begin with the largest, which is what is looked for.
    const rising = ["name", "verdict"].includes(header.dataset.key) !== table.reversed;
    header.ariaSort = header.dataset.key === table.key ? (rising ? "ascending" : "descending") : "none";
  }
  byId("sort-by").value = table.key;
  drawRows();
  followFilter();
}

function sortBy(key) {
  table.reversed = key === table.key && !table.reversed;
  table.key = key;
  refreshTable();
}

function filterVerdict(verdict) {
  table.verdict = verdict;
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.ariaPressed = String(button.dataset.verdict === verdict);
  }
  refreshTable();
}

function filterWords(text) {
  table.words = text.toLowerCase().split(/\s+/).filter(Boolean);
  refreshTable();
}

const rowHeight = () => parseFloat(getComputedStyle(byId("grid")).getPropertyValue("--row"));
const wide = matchMedia("(min-width: 1100px)");

/** Return the first and last row in sight; the list scrolls by itself where there is room beside it. */
function inSight(height) {
  const rowsTop = byId("rows").getBoundingClientRect().top;
  const frame = wide.matches ? byId("grid").getBoundingClientRect() : { top: 0, bottom: window.innerHeight };
  const first = Math.floor((frame.top - rowsTop) / height) - OVERSCAN;
  const last = Math.ceil((frame.bottom - rowsTop) / height) + OVERSCAN;
  return [Math.max(0, first), Math.min(table.shown.length, last)];
}

/** Make the rows in sight, and drop the others. */
function drawRows() {
  if (table.printing) return;
  const height = rowHeight(), body = byId("rows");
  body.style.height = `${height * table.shown.length}px`;
  const [first, last] = inSight(height);
  const wanted = new Map();
  for (let place = first; place < last; place++) wanted.set(table.shown[place], place);
  for (const [index, row] of table.live) {
    if (!wanted.has(index)) {
      row.remove();
      table.live.delete(index);
    }
  }
  for (const [index, place] of wanted) {
    if (!table.live.has(index)) {
      table.live.set(index, makeRow(index));
      body.append(table.live.get(index));
    }
    const row = table.live.get(index);
    row.style.transform = `translateY(${place * height}px)`;
    row.setAttribute("aria-rowindex", place + 2);
    row.ariaSelected = String(index === table.selected);
  }
  const active = table.live.has(table.selected) ? `row${table.selected}` : "";
  byId("grid").setAttribute("aria-activedescendant", active);
}

function makeRow(index) {
  const row = rows[index];
  const [folder, name] = split(row[NAME]);
  const cell = (className, ...children) => make("span", { role: "gridcell", className }, ...children);
  const number = (value, className = "") => cell(`number ${className}`, value ?? "\u2013");
  const address = imageOf("p", index);
  const picture = address ? make("img", { src: address, alt: "", decoding: "async", draggable: false }) : make("i", { className: "no-image" });
  if (address && row[SHARE]) outlineThumb(index, picture);
  const element = make("div", { role: "row", className: "row", id: `row${index}` },
    cell("thumb", picture),
    cell("name", make("bdi", { className: "file", text: visible(name) }), make("span", { className: "folder" }, make("bdi", { dir: "ltr", text: visible(folder) }))),
    cell("verdict", chip(row[VERDICT])),
    number(row[SHARE] === null ? null : percent(row[SHARE]), "share"),
    number(row[SCORE] === null ? null : roundedDown(row[SCORE]), "score"),
    number(row[SHARE] === null ? null : grouped(row[REGIONS]), "count"),
    number(row[WIDTH] === null ? null : `${row[WIDTH]}\u202f\u00d7\u202f${row[HEIGHT]}`, "size"));
  element.title = visible(row[NAME]);
  element.dataset.index = index;
  element.classList.toggle("waiting", !isRead(index));
  return element;
}

const THUMB_SIDE = 192;

/** Draw what is marked onto a small picture, as soon as both are decoded. */
async function outlineThumb(index, picture) {
  const source = await sourceOf(index, { size: [rows[index][WIDTH], rows[index][HEIGHT]] });
  if (source && picture.isConnected) {
    picture.src = drawn(source, THUMB_SIDE, { mode: "overlay", opacity: 25, threshold: rows[index][THRESHOLD], scale: 0.9 });
  }
}

/** Make the rows in sight again whose pictures have been read meanwhile. */
function fillRows() {
  for (const [index, row] of table.live) {
    if (!row.classList.contains("waiting") || !isRead(index)) continue;
    row.remove();
    table.live.delete(index);
  }
  drawRows();
}

/** Bring a row into sight. */
function reveal(index) {
  const place = table.shown.indexOf(index);
  if (place < 0) return;
  const height = rowHeight(), grid = byId("grid");
  if (wide.matches) {
    const head = grid.querySelector(".head").offsetHeight;
    const top = place * height;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + height + head > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + height + head - grid.clientHeight;
  }
  drawRows();
}

/** Lay out for paper, where nothing scrolls: the beginning of the list, each row made. */
function printRows() {
  table.printing = true;
  const body = byId("rows");
  table.live.forEach((row) => row.remove());
  table.live.clear();
  const printed = table.shown.slice(0, PRINTED_ROWS);
  body.replaceChildren(...printed.map(makeRow));
  body.style.height = "auto";
  if (printed.length < table.shown.length) {
    byId("status").textContent = `The first ${grouped(printed.length)} of ${plural(table.shown.length, "picture", "pictures")}, in this order.`;
  }
}

function unprintRows() {
  table.printing = false;
  byId("rows").replaceChildren();
  refreshTable();
  reveal(table.selected);
}
