// Outlines of a map at any threshold, by marching squares; as sharp as the screen that shows them.

// For each set of corners inside (1 top left, 2 top right, 4 bottom right, 8 bottom left): from which
// edge of the cell to which the outline runs, with the inside always on the same hand. 0 top, 1 right,
// 2 bottom, 3 left. Corners that touch diagonally belong together, as they do in the list of regions.
const CROSSINGS = [
  [], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[1, 0], [3, 2]], [[0, 2]], [[3, 2]],
  [[2, 3]], [[2, 0]], [[0, 3], [2, 1]], [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], [],
];

/**
 * Trace where a map reaches a level.
 * @param {{width: number, height: number, levels: Uint8Array}} map
 * @param {number} level marked is what is at or over it, 0 to 255
 * @returns {Float32Array[]} closed outlines as x, y, x, y ... in pixels of the map, for even-odd filling
 */
function traceOutlines({ width, height, levels }, level) {
  // One cell of ground all round, so that every outline closes.
  const stride = width + 2;
  const at = (x, y) => x < 0 || y < 0 || x >= width || y >= height ? -1 : levels[y * width + x];
  const edge = (x, y, side) => {  // the same number from both of its cells
    const column = x + 1 + (side === 1), row = y + 1 + (side === 2);
    return 2 * (row * stride + column) + (side & 1);
  };
  const next = new Int32Array(2 * stride * (height + 2)).fill(-1);
  const starts = [];
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const corners = (at(x, y) >= level ? 1 : 0) | (at(x + 1, y) >= level ? 2 : 0)
        | (at(x + 1, y + 1) >= level ? 4 : 0) | (at(x, y + 1) >= level ? 8 : 0);
      for (const [from, to] of CROSSINGS[corners]) {
        const start = edge(x, y, from);
        next[start] = edge(x, y, to);
        starts.push(start);
      }
    }
  }
  const outlines = [];
  for (const start of starts) {
    if (next[start] < 0) continue;
    const points = [];
    for (let here = start; next[here] >= 0;) {
      const column = (here >> 1) % stride - 1, row = Math.floor((here >> 1) / stride) - 1;
      const down = here & 1;
      const a = at(column, row), b = at(column + 1 - down, row + down);
      const part = (level - a) / (b - a);
      points.push(
        Math.min(width, Math.max(0, column + 0.5 + (down ? 0 : part))),
        Math.min(height, Math.max(0, row + 0.5 + (down ? part : 0))),
      );
      const following = next[here];
      next[here] = -1;
      here = following;
    }
    outlines.push(Float32Array.from(points));
  }
  return outlines;
}

/** Return the outlines as a path on a canvas of that size. */
function outlinePath(map, level, width, height) {
  const path = new Path2D();
  const across = width / map.width, down = height / map.height;
  for (const points of traceOutlines(map, level)) {
    path.moveTo(points[0] * across, points[1] * down);
    for (let i = 2; i < points.length; i += 2) path.lineTo(points[i] * across, points[i + 1] * down);
    path.closePath();
  }
  return path;
}
