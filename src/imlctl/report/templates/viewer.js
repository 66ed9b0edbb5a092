// The picture with its map drawn over it.

// Matplotlib's "inferno" (public domain), 256 colours of three bytes: even steps to every eye.
const INFERNO = Uint8Array.from((
  "00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f0a0722" +
  "0b07240c08260d08290e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c431e0c451f0c48" +
  "210c4a230c4c240c4f260c51280b53290b552b0b572d0b592f0a5b310a5c320a5e340a5f3609613809623909633b0964" +
  "3d09653e0966400a67420a68440a68450a69470b6a490b6a4a0c6b4c0c6b4d0d6c4f0d6c510e6c520e6d540f6d550f6d" +
  "57106e59106e5a116e5c126e5d126e5f136e61136e62146e64156e65156e67166e69166e6a176e6c186e6d186e6f196e" +
  "71196e721a6e741a6e751b6e771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c801f6c82206c84206b85216b87216b88226a" +
  "8a226a8c23698d23698f24699025689225689326679526679727669827669a28659b29649d29649f2a63a02a63a22b62" +
  "a32c61a52c60a62d60a82e5fa92e5eab2f5ead305dae305cb0315bb1325ab3325ab43359b63458b73557b93556ba3655" +
  "bc3754bd3853bf3952c03a51c13a50c33b4fc43c4ec63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545" +
  "d24644d34743d44842d54a41d74b3fd84c3ed94d3dda4e3cdb503bdd513ade5238df5337e05536e15635e25734e35933" +
  "e45a31e55c30e65d2fe75e2ee8602de9612bea632aeb6429eb6628ec6726ed6925ee6a24ef6c23ef6e21f06f20f1711f" +
  "f1731df2741cf3761bf37819f47918f57b17f57d15f67e14f68013f78212f78410f8850ff8870ef8890cf98b0bf98c0a" +
  "f98e09fa9008fa9207fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309fca50afca60cfca80dfcaa0f" +
  "fcac11fcae12fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932" +
  "f9cb35f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55df2e661f2e865" +
  "f2ea69f1ec6df1ed71f1ef75f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1fcffa4"
).match(/../g), (byte) => parseInt(byte, 16));
const TINT = "255, 0, 170", LINE = "#ffe600";
const MAX_ENLARGED = 2;

// What is drawn is a source: a photograph, its map, and where in the picture both lie (left, top, width, height).
const view = {
  index: -1, details: null, whole: null, source: null, other: null,
  mode: "overlay", opacity: { overlay: 22, side: 22, heat: 100 }, threshold: 0.5, box: null, held: false,
};

function decoded(address) {
  const image = new Image();
  image.src = address;
  return image.decode().then(() => image);
}

function blank(width, height) {
  const canvas = make("canvas", { width, height });
  return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
}

/** Read the levels out of a map's picture. */
function levelsOf(image) {
  const width = image.naturalWidth, height = image.naturalHeight;
  const [, context] = blank(width, height);
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const levels = new Uint8Array(width * height);
  for (let i = 0; i < levels.length; i++) levels[i] = data[4 * i];
  return { width, height, levels };
}

/** Load the whole of a picture, or the crop of one of its regions; null where nothing is kept. */
async function sourceOf(index, details, part = 0) {
  const photo = imageOf("p", index, part || "");
  if (!photo) return null;
  const [image, soft] = await Promise.all([decoded(photo), decoded(imageOf("m", index, part || ""))]);
  const box = part ? details.crops[part - 1] : [0, 0, ...details.size];
  return { photo: image, map: levelsOf(soft), box };
}

/** Load a picture; false where another one was asked for meanwhile. */
async function loadView(index, details) {
  Object.assign(view, { index, details, whole: null, source: null, other: null, box: null });
  view.threshold = details.threshold ?? 0.5;
  const source = await sourceOf(index, details);
  if (view.index !== index) return false;
  view.whole = view.source = source;
  return true;
}

/** Show the whole picture (0) or the crop of a region. */
async function showPart(part) {
  const { index, details } = view;
  byId("canvas").ariaBusy = "true";
  const source = part ? await sourceOf(index, details, part) : view.whole;
  if (view.index !== index) return;
  view.source = source;
  markPressed("part", part);
  if (part && source.photo.naturalWidth < source.box[2]) {
    document.querySelector(`[data-part="${part}"]`).textContent = `Region ${part}, at ${percent(source.photo.naturalWidth / source.box[2])} of its size`;
  }
  drawNow();
  byId("canvas").ariaBusy = "false";
}

const levelAt = (threshold) => Math.max(1, Math.round(threshold * 255));

/** Draw a source to fill a canvas context; side by side takes two widths. */
function drawPicture(context, source, width, height, { mode, opacity, threshold, scale = 1, box = null }) {
  if (mode === "side") {
    drawPicture(context, source, width, height, { mode: "overlay", opacity, threshold, scale, box });
    context.save();
    context.translate(width, 0);
    drawPicture(context, source, width, height, { mode: "heat", opacity: 100, threshold, scale, box });
    context.restore();
    return;
  }
  context.globalAlpha = 1;
  context.globalCompositeOperation = "source-over";
  context.imageSmoothingQuality = "high";
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  context.drawImage(mode === "views" && view.other ? view.other : source.photo, 0, 0, width, height);
  if (mode === "heat") drawHeat(context, source.map, width, height, opacity / 100);
  if (mode === "overlay" || mode === "heat") {
    const path = outlinePath(source.map, levelAt(threshold), width, height);
    context.lineJoin = "round";
    if (mode === "overlay") {
      context.fillStyle = `rgba(${TINT}, ${opacity / 100})`;
      context.fill(path, "evenodd");
    }
    // Dark beside bright shows on every ground.
    for (const [line, colour] of [[mode === "heat" ? 2.5 : 4, "#000"], [mode === "heat" ? 1 : 2, mode === "heat" ? "#fff" : LINE]]) {
      context.lineWidth = line * scale;
      context.strokeStyle = colour;
      context.stroke(path);
    }
  }
  if (box) drawBox(context, source, width, height, box, scale);
  context.restore();
}

/** Colours added to the photograph in grey, which is dimmer the higher p: as in heatmap.png. */
function drawHeat(context, map, width, height, strength) {
  const { width: columns, height: lines, levels } = map;
  const [heat, heatContext] = blank(columns, lines);
  const [keep, keepContext] = blank(columns, lines);
  const colours = heatContext.createImageData(columns, lines);
  const greys = keepContext.createImageData(columns, lines);
  for (let i = 0; i < levels.length; i++) {
    const level = levels[i];
    colours.data.set([INFERNO[3 * level], INFERNO[3 * level + 1], INFERNO[3 * level + 2], 255], 4 * i);
    const left = 255 - strength * (255 - (127.5 - 0.35 * level));
    greys.data.set([left, left, left, 255], 4 * i);
  }
  heatContext.putImageData(colours, 0, 0);
  keepContext.putImageData(greys, 0, 0);
  context.globalAlpha = strength;
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  context.globalAlpha = 1;
  context.globalCompositeOperation = "multiply";
  context.drawImage(keep, 0, 0, width, height);
  context.globalAlpha = strength;
  context.globalCompositeOperation = "lighter";
  context.drawImage(heat, 0, 0, width, height);
  context.globalAlpha = 1;
  context.globalCompositeOperation = "source-over";
}

function drawBox(context, source, width, height, [left, top, across, down], scale) {
  const [fromLeft, fromTop, fullWidth, fullHeight] = source.box;
  const x = width / fullWidth, y = height / fullHeight;
  context.setLineDash([6 * scale, 4 * scale]);
  for (const [line, colour] of [[4, "#000"], [2, "#fff"]]) {
    context.lineWidth = line * scale;
    context.strokeStyle = colour;
    context.strokeRect((left - fromLeft) * x, (top - fromTop) * y, across * x, down * y);
  }
  context.setLineDash([]);
}

let drawing = 0;

/** Draw soon, however often it is asked for. */
function draw() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    drawNow();
  });
}

function drawNow() {
  if (!view.source) return;
  const canvas = byId("canvas"), stage = byId("stage"), { photo } = view.source;
  const mode = view.held ? "original" : view.mode;
  const across = view.mode === "side" ? 2 : 1;
  const { naturalWidth, naturalHeight } = photo;
  const room = Math.min(stage.clientWidth / (across * naturalWidth), parseFloat(getComputedStyle(stage).maxHeight) / naturalHeight, MAX_ENLARGED);
  const ratio = Math.min(window.devicePixelRatio || 1, 3);
  const width = Math.max(1, Math.round(naturalWidth * room)), height = Math.max(1, Math.round(naturalHeight * room));
  canvas.style.width = `${across * width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = across * Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  drawPicture(canvas.getContext("2d"), view.source, canvas.width / across, canvas.height, {
    mode, opacity: view.opacity[view.mode] ?? 0, threshold: view.threshold, scale: ratio, box: view.box,
  });
}

/** Draw a source into a picture of its own, for the list and for paper. */
function drawn(source, side, options) {
  const { naturalWidth, naturalHeight } = source.photo;
  const scale = Math.min(1, side / Math.max(naturalWidth, naturalHeight));
  const [canvas, context] = blank(Math.max(1, Math.round(naturalWidth * scale)), Math.max(1, Math.round(naturalHeight * scale)));
  drawPicture(context, source, canvas.width, canvas.height, options);
  return canvas.toDataURL("image/jpeg", 0.85);
}

/** The colours of p over a middle grey, drawn with the very blend of the picture. */
function drawScale() {
  const context = byId("scale").getContext("2d");
  for (let level = 0; level < 256; level++) {
    const grey = 128 / 255 * (127.5 - 0.35 * level);
    const [r, g, b] = [0, 1, 2].map((c) => Math.min(255, grey + INFERNO[3 * level + c]));
    context.fillStyle = `rgb(${r}, ${g}, ${b})`;
    context.fillRect(level, 0, 1, 1);
  }
}

/** Say p and place under the pointer. */
function probe(event) {
  const output = byId("probe"), canvas = byId("canvas"), { source } = view;
  const across = event.offsetX / canvas.clientWidth * (view.mode === "side" ? 2 : 1) % 1;
  const down = event.offsetY / canvas.clientHeight;
  output.hidden = !source || across < 0 || down < 0 || down >= 1;
  if (output.hidden) return;
  const { width, height, levels } = source.map, [left, top, fullWidth, fullHeight] = source.box;
  const level = levels[Math.floor(down * height) * width + Math.floor(across * width)];
  output.textContent = `p ${fixed(level / 255)} at ${left + Math.floor(across * fullWidth)}, ${top + Math.floor(down * fullHeight)}`;
}

// --- views ----------------------------------------------------------------------------------------

let flickering = 0;

/** Load a view of the picture, such as its error levels. */
async function showView(name) {
  const { index } = view;
  byId("canvas").ariaBusy = "true";
  const [, look, ignore] = summary.views[name] ?? ["", "", ""];
  byId("view-name").value = name;
  byId("look-for").textContent = look;
  byId("ignore").textContent = ignore;
  const other = await decoded(imageOf("v", index, name));
  if (view.index !== index) return;
  view.other = other;
  drawNow();
  byId("canvas").ariaBusy = "false";
}

/** Change between picture and view, twice a second. */
function flicker(on) {
  clearInterval(flickering);
  flickering = on ? setInterval(() => hold(!view.held), 500) : 0;
  byId("flicker").ariaPressed = String(on);
  if (!on) hold(false);
}
