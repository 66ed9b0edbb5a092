// What the page was given, and how it says things. Text only ever becomes text, never markup.

const byId = (id) => document.getElementById(id);
const summary = JSON.parse(byId("summary").textContent);
const NAME = 0, VERDICT = 1, SHARE = 2, SCORE = 3, REGIONS = 4, WIDTH = 5, HEIGHT = 6, FORMAT = 7, WORDS = 8, THRESHOLD = 9;
const rows = summary.rows;

// The pictures come behind this script, in blocks of photograph, map and record, and may still be on
// their way. A block is whole when something follows it.
const reading = () => document.readyState === "loading";
const isRead = (index) => Boolean(byId(`r${index}`)?.nextElementSibling) || !reading();

/** Return everything kept of one picture, as soon as it is there; parsed only when it is asked for. */
async function detailsOf(index) {
  while (!isRead(index)) await new Promise((resume) => setTimeout(resume, 30));
  return JSON.parse(byId(`r${index}`).textContent);
}

/** Return a data address of a picture's photograph ("p"), map ("m") or view ("v"), or "" where there is none. */
function imageOf(kind, index, part = "") {
  const block = isRead(index) && byId(`${kind}${index}${part && `-${part}`}`);
  return block ? `data:image/${kind === "m" ? "png" : "jpeg"};base64,${block.textContent}` : "";
}

/** Make an element with text and children. */
function make(tag, { text, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

/** Show what is invisible in a name, and what would turn its letters around. */
const visible = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
  (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

const grouped = (number) => Number(number).toLocaleString("en").replaceAll(",", "\u202f");

/** Say a fraction as a percentage that is never rounded to none or to all. */
function percent(share) {
  if (share > 0 && share < 0.0001) return "< 0.01\u202f%";
  if (share < 1 && share >= 0.9995) return "> 99.9\u202f%";
  const digits = share > 0 && share < 0.01 ? 2 : share === 0 || share === 1 ? 0 : 1;
  return `${(100 * share).toFixed(digits)}\u202f%`;
}

/** Two digits that do not seem to reach what was not reached. */
const roundedDown = (number) => (Math.floor(number * 100 + 1e-9) / 100).toFixed(2);

const fixed = (number, digits = 2) => number.toFixed(digits);

/** Say from which p on. */
const fromP = (p) => `p\u00a0\u2265\u00a0${probability(p)}`;

/** Say a threshold with two digits, or with as many as it needs. */
const probability = (p) => Number(p.toFixed(2)) === p ? p.toFixed(2) : String(p);

const plural = (count, one, many) => `${grouped(count)} ${count === 1 ? one : many}`;

function split(path) {
  const cut = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
  return cut < 0 ? ["", path] : [path.slice(0, cut + 1), path.slice(cut + 1)];
}

const VERDICT_WORDS = { "manipulated": "Manipulated", "inconclusive": "Inconclusive", "nothing found": "Nothing found", "failed": "Failed" };
const SIGNS = { "manipulated": "manipulated", "inconclusive": "inconclusive", "nothing found": "nothing-found", "failed": "failed" };

function chip(verdict) {
  const sign = make("i", { className: `sign ${SIGNS[verdict] ?? "failed"}` });
  return make("span", { className: `chip ${SIGNS[verdict] ?? "failed"}` }, sign, VERDICT_WORDS[verdict] ?? verdict);
}
