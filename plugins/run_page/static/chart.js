import { count, number } from "./format.js";

// BokehJS, loaded when the first chart is drawn, behind a small interface: curves over steps.
// No text of a run reaches it but numbers: curves are named by letters, and the page's own legend says what they stand for.

let loading = null;

export function chartLibrary() {
  loading ??= ["bokeh.min.js", "bokeh-api.min.js"].reduce(
    (before, name) => before.then(() => script(name)),
    Promise.resolve(),
  );
  return loading;
}

function script(name) {
  return new Promise((resolve, reject) => {
    const node = document.createElement("script");
    node.src = new URL(name, import.meta.url);
    node.onload = resolve;
    node.onerror = () => reject(new Error(`The chart library (${name}) could not be loaded.`));
    document.head.append(node);
  });
}

// Told apart on light and dark, and by those who see few colours.
export const COLOURS = ["#2f8fc4", "#e0762f", "#35a873", "#b165c9", "#c9a227", "#d9534f"];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Chart {
  // `onZoom(first, last)` is told the steps in view, or nulls for all of them.
  constructor(host, { label, logarithmic, onZoom }) {
    const { Bokeh } = globalThis;
    this.onZoom = onZoom;
    this.isLogarithmic = logarithmic;
    this.host = host;
    this.sources = [];
    this.figure = Bokeh.Plotting.figure({
      height: 380,
      sizing_mode: "stretch_width",
      tools: "pan,box_zoom,wheel_zoom,reset",
      x_range: new Bokeh.Range1d({ start: 0, end: 1 }),
      y_axis_type: logarithmic ? "log" : "linear",
      background_fill_color: colour("--surface"),
      border_fill_color: colour("--surface"),
      outline_line_color: colour("--line"),
    });
    this.figure.toolbar.logo = null;
    this.figure.add_tools(
      new Bokeh.HoverTool({
        tooltips: [
          ["curve", "@name"],
          ["step", "@x{0,0}"],
          [label, "@said"],
        ],
        mode: "mouse",
      }),
    );
    this.style(label);
    this.figure.x_range.change.connect(() => this.zoomed());
    this.view = Bokeh.Plotting.show(this.figure, host);
  }

  style(label) {
    const text = colour("--muted");
    for (const axis of [this.figure.xaxis, this.figure.yaxis].flat()) {
      axis.axis_label_text_color = axis.major_label_text_color = text;
      axis.axis_line_color = axis.major_tick_line_color = colour("--line");
      axis.minor_tick_line_color = null;
      axis.axis_label_text_font_style = "normal";
    }
    for (const grid of [this.figure.xgrid, this.figure.ygrid].flat()) grid.grid_line_color = colour("--line");
    [this.figure.xaxis].flat()[0].axis_label = "step";
    [this.figure.xaxis].flat()[0].formatter = new globalThis.Bokeh.NumeralTickFormatter({ format: "0,0" });
    [this.figure.yaxis].flat()[0].axis_label = label;
    this.ticker = new globalThis.Bokeh.BasicTicker({ min_interval: 1 });
    [this.figure.xaxis].flat()[0].ticker = this.ticker;
  }

  // `curves`: [{ name, colour, steps, values, smoothed }], in the order of the legend.
  draw(curves, lastStep) {
    const wanted = curves.flatMap(({ name, colour: line, steps, values, smoothed }) => {
      const raw = { name, line, steps, values: this.placed(values), width: smoothed ? 1 : 1.6, alpha: smoothed ? 0.35 : 1 };
      return smoothed ? [raw, { name, line, steps, values: this.placed(smoothed), width: 2.2, alpha: 1 }] : [raw];
    });
    while (this.sources.length < wanted.length) this.sources.push(this.line());
    this.spread(curves.flatMap(({ values }) => values));
    this.sources.forEach((one, index) => this.update(one, wanted[index]));
    this.follow(lastStep);
  }

  // What a logarithmic axis has no place for leaves a gap, so that a number beside it is seen to be alone.
  placed(values) {
    return this.isLogarithmic ? values.map((value) => (value > 0 ? value : null)) : values;
  }

  line() {
    const sourceOf = () => new globalThis.Bokeh.ColumnDataSource({ data: columns("", [], []) });
    const place = { x: { field: "x" }, y: { field: "y" } };
    const [source, alone] = [sourceOf(), sourceOf()];
    const dots = this.figure.scatter({ ...place, source: alone, size: 7, line_color: null });
    return { source, alone, dots, renderer: this.figure.line({ ...place, source }) };
  }

  update({ source, alone, dots, renderer }, curve) {
    const { steps = [], values = [], name = "", line = "#000", width = 1, alpha = 0 } = curve ?? {};
    source.data = columns(name, steps, values);
    Object.assign(renderer.glyph, { line_color: line, line_width: width, line_alpha: alpha });
    const places = steps.map((_, place) => place).filter((place) => isAlone(values, place));
    alone.data = columns(
      name,
      places.map((place) => steps[place]),
      places.map((place) => values[place]),
    );
    Object.assign(dots.glyph, { fill_color: line, fill_alpha: alpha });
  }

  // Values that are all the same have no span of their own: a tenth of them on either side, on a linear axis.
  spread(values) {
    const size = values.reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0);
    this.figure.y_range.default_span = this.isLogarithmic || !size ? 2 : size / 5;
  }

  // The whole curve stays in view as it grows, its last point inside of the frame, unless somebody has zoomed in.
  follow(lastStep) {
    const range = this.figure.x_range;
    this.whole = lastStep + Math.max(1, lastStep / 100);
    const view = this.isZoomed ? {} : { start: 0, end: this.whole };
    this.quietly(() => range.setv({ reset_start: 0, reset_end: this.whole, ...view }));
    // Whole steps alone have labels, as many as have room.
    const room = Math.floor(this.host.clientWidth / (40 + 9 * count(lastStep).length));
    this.ticker.desired_num_ticks = Math.min(8, Math.max(2, room));
  }

  quietly(change) {
    this.isQuiet = true;
    change();
    this.isQuiet = false;
  }

  zoomed() {
    if (this.isQuiet) return;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => {
      const { start, end } = this.figure.x_range;
      this.isZoomed = start > 0 || end < this.whole;
      this.onZoom(...(this.isZoomed ? [start, end] : [null, null]));
    }, 250);
  }
}

// A number without a neighbour: a line alone would not show it.
const isAlone = (values, place) =>
  isNumber(values[place]) && !isNumber(values[place - 1]) && !isNumber(values[place + 1]);
const isNumber = (value) => value !== null && value !== undefined;

const columns = (name, steps, values) => ({
  x: steps,
  y: values.map((value) => value ?? NaN),
  name: steps.map(() => name),
  said: values.map((value) => number(value)),
});
