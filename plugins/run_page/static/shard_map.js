// Which rank holds which slice: a list of parameters, and two pictures of the chosen one (slice_pictures.js).

import { ofRun } from "./api.js";
import { element, facts, notice, table } from "./dom.js";
import { bytes, count, counted, shape } from "./format.js";
import { deviceMatrix, slicesOf, tensorPicture } from "./slice_pictures.js";

const MOST_LISTED = 300;

export class ShardMapPanel {
  constructor(panel, run) {
    this.panel = panel;
    this.run = run;
    this.filter = element("input", {
      id: "filter",
      type: "search",
      placeholder: "layer1",
      on: { input: () => this.list() },
    });
    this.kind = element("select", { id: "kind", on: { change: () => this.list() } });
    this.kind.append(
      ...[
        ["weight", "Weights"],
        ["state", "Optimizer states"],
        ["", "All tensors"],
      ].map(([value, text]) => element("option", { value }, text)),
    );
    this.listing = element("div", { class: "listing" });
    this.detail = element("section", { class: "detail", "aria-live": "polite" });
    this.totals = element("div");
  }

  async refresh() {
    const map = await ofRun(this.run, "shard-map");
    const seen = map && `${map.step} ${map.parameters.length}`;
    if (map === null) {
      this.panel.replaceChildren(notice("Training has not written its strategy yet."));
      return;
    }
    if (seen === this.seen) return;
    this.seen = seen;
    this.map = map;
    const controls = element(
      "div",
      { class: "controls" },
      element("label", { for: "filter" }, "Name contains ", this.filter),
      element("label", { for: "kind" }, "Show ", this.kind),
    );
    this.panel.replaceChildren(this.totals, controls, element("div", { class: "columns" }, this.listing, this.detail));
    this.totals.replaceChildren(totalsOf(map));
    this.list();
  }

  list() {
    const wanted = this.filter.value.toLowerCase();
    const found = this.map.parameters.filter(
      (one) => (!this.kind.value || one.kind === this.kind.value) && one.name.toLowerCase().includes(wanted),
    );
    const shown = found.slice(0, MOST_LISTED);
    const rows = shown.map((one) => this.row(one));
    const more =
      found.length > shown.length
        ? notice(`${count(found.length - shown.length)} more: narrow the list by name.`)
        : null;
    this.listing.replaceChildren(
      ...[
        found.length
          ? table("Parameters", ["Parameter", "Shape", "Slices", "Copies", "Size"], rows)
          : notice("No parameter has such a name."),
        more,
      ].filter(Boolean),
    );
    if (!found.includes(this.chosen))
      this.choose(found.find((one) => this.layoutOf(one).slices.some((slice) => slice.some(Boolean))) ?? found[0]);
    this.mark();
  }

  row(parameter) {
    const layout = this.layoutOf(parameter);
    const open = element(
      "button",
      { type: "button", class: "link", "data-name": parameter.name, on: { click: () => this.choose(parameter) } },
      parameter.name,
    );
    const cut = parts(layout) > 1 ? layout.shards.join(" × ") : "whole";
    return [
      element("th", { scope: "row" }, open),
      shape(parameter.shape),
      cut,
      element("td", { class: "number" }, layout.replicas),
      element("td", { class: "number" }, bytes(parameter.bytes)),
    ];
  }

  layoutOf(parameter) {
    return this.map.layouts[parameter.layout];
  }

  choose(parameter) {
    this.chosen = parameter;
    this.mark();
    this.detail.replaceChildren(...(parameter ? detailOf(parameter, this.layoutOf(parameter), this.map) : []));
  }

  mark() {
    for (const button of this.listing.querySelectorAll("button")) {
      button.setAttribute("aria-current", button.dataset.name === this.chosen?.name);
    }
  }
}

function totalsOf(map) {
  const known = map.parameters.filter((one) => one.bytes !== null);
  const whole = known.reduce((sum, one) => sum + one.bytes, 0);
  const first = known.filter((one) => one.stage === 0);
  const held = first.reduce((sum, one) => sum + sliceBytes(one, map.layouts[one.layout]), 0);
  return facts([
    ["Ranks", map.stages > 1 ? `${count(map.world_size)} in ${map.stages} pipeline stages` : count(map.world_size)],
    ["Tensors", count(map.parameters.length)],
    ["Whole", known.length ? bytes(whole) : null],
    [
      map.stages > 1 ? "Held by a rank of stage 0" : "Held by each rank",
      known.length ? `${bytes(held)} (${Math.round((100 * held) / (whole || 1))} %)` : null,
    ],
    [
      "As of",
      map.step === null
        ? "the strategy alone: no shard set is complete yet"
        : `the shard set of step ${count(map.step)}`,
    ],
    ["Saved", map.integrated ? "whole by every rank" : null],
  ]);
}

const parts = (layout) => layout.shards.reduce((product, size) => product * size, 1);
const sliceBytes = (parameter, layout) => parameter.bytes / parts(layout);

const mapOf = (layout) =>
  layout.tensor_map
    .map((axes) => (axes.length === 0 ? "-1" : axes.length === 1 ? axes[0] : `(${axes.join(", ")})`))
    .join(", ");

function detailOf(parameter, layout, map) {
  const slices = slicesOf(layout, parameter.stage * map.ranks_per_stage);
  const pictures = element("div", { class: "pictures" });
  const highlight = (key) => {
    for (const node of pictures.querySelectorAll("[data-slice]"))
      node.classList.toggle("dim", key !== null && node.dataset.slice !== key);
  };
  pictures.append(
    tensorPicture(parameter, layout, slices, highlight),
    deviceMatrix(parameter, layout, slices, map, highlight),
  );
  return [
    element("h2", {}, parameter.name),
    element("p", {}, sentence(parameter, layout, slices)),
    facts([
      ["Shape", shape(parameter.shape)],
      ["Type", parameter.type],
      ["Device matrix", `[${layout.device_matrix.join(", ")}]`],
      ["Tensor map", `[${mapOf(layout)}]`],
      ["Optimizer shards", layout.optimizer_parts > 1 ? layout.optimizer_parts : null],
      ["Pipeline stage", map.stages > 1 ? parameter.stage : null],
      [
        "A slice",
        parameter.slice_shape ? `${shape(parameter.slice_shape)}, ${bytes(sliceBytes(parameter, layout))}` : null,
      ],
      [
        "On all ranks together",
        parameter.bytes === null ? null : bytes(sliceBytes(parameter, layout) * layout.slices.length),
      ],
    ]),
    pictures,
  ];
}

function sentence(parameter, layout, slices) {
  const held = layout.replicas > 1 ? `each held by ${counted(layout.replicas, "rank")}` : "each held by one rank";
  if (slices.length === 1)
    return `Not cut: ${layout.slices.length > 1 ? `all ${layout.slices.length} ranks hold the whole` : "one rank holds the whole"}.`;
  const optimizer =
    layout.optimizer_parts > 1
      ? `; of the cuts along dimension 0, optimizer sharding makes a factor of ${layout.optimizer_parts}`
      : "";
  return `Cut into ${counted(slices.length, "slice")} (${layout.shards.join(" × ")}), ${held}${optimizer}.`;
}
