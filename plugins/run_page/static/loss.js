// The curves of training: loss and its companions, smoothed on the server, beside other runs'.

import { ofRun, runs } from "./api.js";
import { COLOURS, Chart, chartLibrary } from "./chart.js";
import { element, notice } from "./dom.js";
import { count, counted, number, words } from "./format.js";

const MOST_COMPARED = 4; // the last colour is that of held-out samples
const NOTHING_ABOVE_ZERO = "Nothing is above zero: there is nothing to draw on a logarithmic axis.";

export class LossPanel {
  constructor(panel, run, compared = []) {
    this.panel = panel;
    this.run = run;
    this.compared = compared;
    this.view = { first: null, last: null };
    addEventListener("themechange", () => this.restart());
  }

  build() {
    this.metric = element("select", { id: "metric", on: { change: () => this.restart() } }, option("loss"));
    this.smoothing = element("input", {
      id: "smoothing",
      type: "range",
      min: 0,
      max: 100,
      step: 1,
      value: 30,
      on: { input: () => this.load() },
    });
    this.logarithmic = element("input", { id: "logarithmic", type: "checkbox", on: { change: () => this.restart() } });
    this.chartHost = element("div", { class: "chart", role: "img" }, notice("Loading the curve…"));
    this.summary = element("p", { class: "muted", id: "curve-summary" });
    this.warning = element("div", { role: "status" });
    this.legend = element("ul", { class: "legend", "aria-label": "Curves" });
    this.choices = element("div");
    const controls = element(
      "div",
      { class: "controls" },
      element("label", { for: "metric" }, "Curve ", this.metric),
      element("label", { for: "smoothing" }, "Smoothing ", this.smoothing),
      element("label", { for: "logarithmic" }, this.logarithmic, " Logarithmic"),
    );
    const compare = element(
      "details",
      { on: { toggle: () => this.listRuns() } },
      element("summary", {}, "Compare with other runs"),
      this.choices,
    );
    this.panel.replaceChildren(controls, this.warning, this.chartHost, this.legend, this.summary, compare);
  }

  // The library is fetched while the first answers are on their way.
  warmUp() {
    chartLibrary();
  }

  async refresh(overview) {
    if (!this.metric) this.build();
    this.steps = overview.progress?.step ?? 0;
    await this.load();
  }

  // The slider gives a share of the run, up to a tenth, finer at its lower end; the average reaches about that far back.
  get smoothingWeight() {
    const window = 0.1 * this.steps * (this.smoothing.value / 100) ** 2;
    return window > 1 ? Math.min(1 - 1 / window, 0.999999).toFixed(6) : 0;
  }

  restart() {
    this.chart = null;
    this.view = { first: null, last: null };
    if (this.metric && !this.panel.hidden) this.load();
  }

  get all() {
    return [this.run, ...this.compared];
  }

  async load() {
    const mine = (this.turn = (this.turn ?? 0) + 1);
    const query = { name: this.metric.value, smoothing: this.smoothingWeight, ...this.view };
    const [found] = await Promise.all([
      Promise.all(this.all.map((run) => ofRun(run, "metrics", query))),
      chartLibrary(),
    ]);
    const beside = await this.heldOut(found[0], query);
    if (mine === this.turn) this.show(found, beside);
  }

  // Where the loss on held-out samples was recorded, it stands beside that of training.
  async heldOut(own, query) {
    if (own.name !== "loss" || !own.names.includes("validation_loss")) return null;
    return ofRun(this.run, "metrics", { ...query, name: "validation_loss", smoothing: 0 });
  }

  show(found, beside) {
    const [own] = found;
    this.offer(own.names);
    if (!own.steps.length) {
      this.summary.textContent = "No step has been recorded yet.";
      this.chartHost.replaceChildren();
      return;
    }
    const curves = found.map((series, index) => ({ ...series, name: letter(index), colour: COLOURS[index] }));
    if (beside) curves.push({ ...beside, name: "held out", colour: COLOURS.at(-1) });
    const lastStep = Math.max(...found.map((series) => series.last_step ?? 1));
    const numbers = curves.flatMap(({ values }) => values.filter((value) => value !== null));
    const placed = this.logarithmic.checked ? numbers.filter((value) => value > 0) : numbers;
    if (placed.length) {
      this.chart ??= this.startChart();
      this.chart.draw(curves, lastStep);
    } else {
      this.chart = null;
      this.chartHost.replaceChildren(notice(numbers.length ? NOTHING_ABOVE_ZERO : "There is no number to draw."));
    }
    this.explain(own, numbers.length - placed.length);
    this.legend.replaceChildren(
      ...this.all.map((run, index) => this.entry(run, index)),
      ...(beside ? [heldOutEntry(beside)] : []),
    );
  }

  startChart() {
    this.chartHost.replaceChildren();
    return new Chart(this.chartHost, {
      label: words(this.metric.value).toLowerCase(),
      logarithmic: this.logarithmic.checked,
      onZoom: (first, last) => {
        this.view = { first, last };
        this.load();
      },
    });
  }

  offer(names) {
    const known = [...this.metric.options].map((one) => one.value);
    this.metric.append(...names.filter((name) => !known.includes(name)).map(option));
  }

  // `unplaced`: how many points of all curves have no place on the axis.
  explain(own, unplaced) {
    const name = words(own.name);
    const text = [
      `${name}: ${extent(own)}; ${counted(own.rows, "step")}, drawn from ${counted(own.steps.length, "point")}.`,
      unplaced ? `Not drawn, since a logarithmic axis has no zero: ${counted(unplaced, "point")}.` : "",
      own.unread_bytes ? "More is being read." : "",
    ]
      .filter(Boolean)
      .join(" ");
    this.summary.textContent = text;
    this.chartHost.setAttribute("aria-label", `Chart. ${text}`);
    const broken = own.not_finite;
    this.warning.replaceChildren(
      ...(own.unreadable_lines
        ? [element("p", { class: "problem" }, `${counted(own.unreadable_lines, "line")} of metrics.jsonl damaged, and left out.`)]
        : []),
      ...(broken
        ? [
            element(
              "p",
              { class: "problem" },
              `${name} is no number at ${counted(broken.count, "step")}, first at step ${count(broken.first_step)}: training diverged.`,
            ),
          ]
        : []),
    );
  }

  entry(run, index) {
    const remove = element(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-label": `Remove ${run.runId}`,
        on: { click: () => this.toggle(run, false) },
      },
      "×",
    );
    const swatch = element("span", { class: "swatch", style: { background: COLOURS[index] }, "aria-hidden": "true" });
    return element(
      "li",
      {},
      swatch,
      `${letter(index)}: `,
      element("span", { class: "name" }, run.runId),
      index ? remove : null,
    );
  }

  async listRuns() {
    const { runs: known } = await runs({ limit: 50 });
    const others = known.filter(
      (one) => one.has_folder && !(one.run_id === this.run.runId && one.dag_id === this.run.dagId),
    );
    const boxes = others.map((one) => this.choice({ dagId: one.dag_id, runId: one.run_id }));
    this.choices.replaceChildren(
      boxes.length ? element("ul", { class: "choices" }, boxes) : notice("There is no other run that you may see."),
    );
  }

  choice(run) {
    const chosen = this.compared.some((one) => same(one, run));
    const box = element("input", {
      type: "checkbox",
      on: { change: (event) => this.toggle(run, event.target.checked) },
    });
    box.checked = chosen;
    box.disabled = !chosen && this.compared.length >= MOST_COMPARED;
    return element(
      "li",
      {},
      element("label", {}, box, ` ${run.runId} `, element("span", { class: "muted" }, run.dagId)),
    );
  }

  toggle(run, wanted) {
    this.compared = this.compared.filter((one) => !same(one, run));
    if (wanted) this.compared.push(run);
    this.listRuns();
    this.load();
  }
}

// The newest number and its step, the lowest and the highest.
function extent({ steps, values }) {
  const newest = values.findLastIndex((value) => value !== null);
  if (newest < 0) return "no number at any step in view";
  const numbers = values.filter((value) => value !== null);
  return `${number(values[newest])} at step ${count(steps[newest])}; lowest ${number(Math.min(...numbers))}, highest ${number(Math.max(...numbers))}`;
}

const heldOutEntry = ({ values }) =>
  element(
    "li",
    {},
    element("span", { class: "swatch", style: { background: COLOURS.at(-1) }, "aria-hidden": "true" }),
    `${letter(0)}, on held-out samples: ${number(values.findLast((value) => value !== null))}`,
  );

const same = (one, other) => one.runId === other.runId && one.dagId === other.dagId;
const letter = (index) => String.fromCharCode(65 + index);
const option = (name) => element("option", { value: name }, words(name));
