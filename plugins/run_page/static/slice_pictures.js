// Two pictures of one parameter: the tensor, cut into slices; and the device matrix, each rank in its slice's colour.

import { drawing, element } from "./dom.js";
import { counted } from "./format.js";

const WIDTH = 360;
// Of a number in the picture, in its units: how high a line is, how wide a digit.
const LINE = 18;
const DIGIT = 10;

// The different slices with the ranks that hold them: { key, place, ranks, colour }, in the tensor's order.
export function slicesOf(layout, firstRank) {
  const found = new Map();
  layout.slices.forEach((place, rank) => {
    const key = place.join(",");
    if (!found.has(key)) found.set(key, { key, place, ranks: [] });
    found.get(key).ranks.push(firstRank + rank);
  });
  const slices = [...found.values()].sort((one, other) => compare(one.place, other.place));
  slices.forEach(
    (slice, index) => (slice.colour = `hsl(${Math.round((200 + (index * 360) / slices.length) % 360)} 48% 38%)`),
  );
  return slices;
}

function compare(one, other) {
  const at = one.findIndex((part, dimension) => part !== other[dimension]);
  return at < 0 ? 0 : one[at] - other[at];
}

// Dimension 0 runs down; the others, last fastest, run across.
export function tensorPicture(parameter, layout, slices, highlight) {
  const rows = layout.shards[0] ?? 1;
  const columns = layout.shards.slice(1).reduce((product, size) => product * size, 1);
  const height = heightOf(parameter, rows, columns);
  const [cellWidth, cellHeight] = [WIDTH / columns, height / rows];
  const cells = slices.map((slice) => {
    const column = slice.place
      .slice(1)
      .reduce((index, part, dimension) => index * layout.shards[dimension + 1] + part, 0);
    return cell(
      parameter,
      layout,
      slice,
      { x: column * cellWidth, y: (slice.place[0] ?? 0) * cellHeight, width: cellWidth, height: cellHeight },
      highlight,
    );
  });
  const borders = layout.optimizer_parts > 1 ? optimizerBorders(rows, layout.optimizer_parts, cellHeight) : [];
  const picture = drawing(
    "svg",
    {
      viewBox: `-1 -1 ${WIDTH + 2} ${height + 2}`,
      class: "tensor",
      role: "img",
      "aria-label": `${parameter.name} cut into ${counted(slices.length, "slice")}`,
    },
    cells,
    borders,
  );
  return element(
    "figure",
    {},
    element("figcaption", {}, "The tensor: which ranks hold which part"),
    picture,
    element("p", { class: "muted" }, dimensions(parameter)),
  );
}

function heightOf(parameter, rows, columns) {
  const sizes = parameter.shape ?? [];
  const across = sizes.slice(1).reduce((product, size) => product * size, 1);
  const ratio = sizes.length > 1 ? sizes[0] / across : rows / columns;
  return WIDTH * Math.min(Math.max(ratio, 0.25), 0.9);
}

function cell(parameter, layout, slice, box, highlight) {
  const title = `${rangesOf(parameter, layout, slice)}: ${ranksOf(slice)}`;
  const said = fitted(slice.ranks, box);
  const middle = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  const label = said && drawing("text", { ...middle, "text-anchor": "middle", "dominant-baseline": "central" }, said);
  return drawing(
    "g",
    { "data-slice": slice.key, on: { mouseenter: () => highlight(slice.key), mouseleave: () => highlight(null) } },
    drawing("title", {}, title),
    drawing("rect", { ...box, style: { fill: slice.colour } }),
    label,
  );
}

// As many of the ranks as the box has room for in one line; null where not one has.
function fitted(ranks, box) {
  if (box.height < LINE) return null;
  const texts = ranks.map((_, left) => ranks.slice(0, ranks.length - left).join(" ") + (left ? " …" : ""));
  return texts.find((text) => text.length * DIGIT <= box.width) ?? null;
}

// What the tensor map cuts is divided by a full line, what optimizer sharding cuts once more by dashes.
function optimizerBorders(rows, parts, cellHeight) {
  return Array.from({ length: rows - 1 }, (_, index) => index + 1).map((row) =>
    drawing("line", {
      x1: 0,
      x2: WIDTH,
      y1: row * cellHeight,
      y2: row * cellHeight,
      class: row % parts ? "optimizer" : "mapped",
    }),
  );
}

// Ranks in the shape of the device matrix: its last axis across, the one before down, further ones block by block.
export function deviceMatrix(parameter, layout, slices, map, highlight) {
  const bySlice = new Map(slices.map((slice) => [slice.key, slice]));
  const first = parameter.stage * map.ranks_per_stage;
  const tiles = layout.slices.map((place, rank) =>
    tile(parameter, layout, bySlice.get(place.join(",")), first + rank, highlight),
  );
  const columns = layout.device_matrix.at(-1);
  const inBlock = columns * (layout.device_matrix.at(-2) ?? 1);
  const blocks = Array.from({ length: tiles.length / inBlock }, (_, index) =>
    tiles.slice(index * inBlock, (index + 1) * inBlock),
  );
  const grids = blocks.map((block) =>
    element("div", { class: "devices", style: { "--columns": Math.min(columns, 16) } }, block),
  );
  const others =
    map.stages > 1
      ? element("p", { class: "muted" }, `The ranks of the other ${map.stages > 2 ? `${map.stages - 1} stages` : "stage"} hold nothing of it.`)
      : null;
  const all = element("div", { class: "blocks", role: "group", "aria-label": "Ranks" }, grids);
  return element(
    "figure",
    {},
    element("figcaption", {}, `The ranks: device matrix ${layout.device_matrix.join(" × ")}`),
    all,
    others,
  );
}

function tile(parameter, layout, slice, rank, highlight) {
  const text = `rank ${rank} holds ${rangesOf(parameter, layout, slice)}${slice.ranks.length > 1 ? `, as ${slice.ranks.length > 2 ? "do" : "does"} ${counted(slice.ranks.length - 1, "other")}` : ""}`;
  const on = {
    mouseenter: () => highlight(slice.key),
    mouseleave: () => highlight(null),
    focus: () => highlight(slice.key),
    blur: () => highlight(null),
  };
  return element(
    "button",
    {
      type: "button",
      title: text,
      "aria-label": text,
      "data-slice": slice.key,
      style: { background: slice.colour },
      on,
    },
    String(rank),
  );
}

const ranksOf = (slice) => (slice.ranks.length > 1 ? `ranks ${slice.ranks.join(", ")}` : `rank ${slice.ranks[0]}`);

const dimensions = (parameter) =>
  parameter.shape?.length
    ? `${parameter.shape[0]} down${parameter.shape.length > 1 ? `, ${parameter.shape.slice(1).join(" × ")} across` : ""}`
    : "";

// [0:392, 256:512], as Python would slice it; parts where the shape isn't known.
function rangesOf(parameter, layout, slice) {
  if (!slice.place.length) return "the scalar";
  const range = (part, dimension) => {
    const parts = layout.shards[dimension];
    if (!parameter.shape) return `${part + 1}/${parts}`;
    const width = parameter.shape[dimension] / parts;
    return `${part * width}:${(part + 1) * width}`;
  };
  return `[${slice.place.map(range).join(", ")}]`;
}
