// The validation: whether the model may be promoted, its measures, what it confuses or writes, the plots.

import { addressOf, ofRun } from "./api.js";
import { element, facts, notice, section, table } from "./dom.js";
import { count, digest, number, percent, words } from "./format.js";

// Shown in a way of their own; every other plain value of the report is a fact.
const DRAWN = new Set(["passed", "failures", "confusion_matrix", "classes", "accuracy", "merged", "dataset_digest"]);

export class ValidationPanel {
  constructor(panel, run) {
    this.panel = panel;
    this.run = run;
  }

  async refresh() {
    const found = await ofRun(this.run, "validation");
    const seen = JSON.stringify(found);
    if (seen === this.seen) return;
    this.seen = seen;
    const { report, plots } = found;
    this.panel.replaceChildren(
      ...(report ? [verdict(report), texts(report), confusion(report), classes(report)] : [notice("Nothing has been validated yet.")]).filter(Boolean),
      ...(plots.length ? [this.pictures(plots, report)] : []),
    );
  }

  pictures(plots, report) {
    const version = report?.merged?.digest ?? "";
    const figures = plots.map((name) => {
      const title = words(name.replace(/\.png$/, ""));
      return element("figure", {}, element("figcaption", {}, title), element("img", { src: addressOf(this.run, "plot", { name, version }), alt: title, loading: "lazy" }));
    });
    return section("Plots", element("div", { class: "plots" }, figures));
  }
}

function verdict(report) {
  const said = report.failures?.length ? report.failures.map((failure) => element("p", { class: "problem" }, failure)) : [element("p", { class: "proved" }, "Good enough to be promoted.")];
  const plain = Object.entries(report).filter(([name, value]) => !DRAWN.has(name) && typeof value === "number");
  const compared = report.sharded_logits;
  return section(
    report.passed ? "Passed" : "Failed",
    said,
    facts([
      ["Accuracy", report.accuracy === undefined ? null : percent(report.accuracy)],
      ...plain.map(([name, value]) => [words(name), Number.isInteger(value) ? count(value) : number(value)]),
      ["Merged against sharded", compared ? `logits differ by ${number(compared.relative_difference, 3)} of the greatest (at most ${number(compared.tolerance)})` : null],
      ["Model", report.merged ? element("code", { title: report.merged.digest }, digest(report.merged.digest)) : null],
      ["Step", report.merged?.step],
    ]),
  );
}

// What a language model wrote, and anything else that is text.
function texts(report) {
  const written = Object.entries(report).flatMap(([name, value]) => textsIn(name, value));
  return written.length ? section("Samples", ...written.map(([name, text]) => element("figure", {}, element("figcaption", {}, words(name)), element("pre", { class: "sample" }, text)))) : null;
}

function textsIn(name, value) {
  if (DRAWN.has(name) || value === null) return [];
  if (typeof value === "string") return [[name, value]];
  if (Array.isArray(value)) return value.every((one) => typeof one === "string") ? value.map((text, index) => [`${name} ${index + 1}`, text]) : [];
  return typeof value === "object" ? Object.entries(value).filter(([, text]) => typeof text === "string").map(([key, text]) => [`${name}: ${key}`, text]) : [];
}

function confusion({ confusion_matrix: matrix, classes: known }) {
  if (!matrix) return null;
  const labels = matrix.map((_, index) => String(known?.[index]?.label ?? index));
  const rows = matrix.map((counts, row) => {
    const total = counts.reduce((sum, value) => sum + value, 0) || 1;
    const cells = counts.map((value, column) =>
      element("td", { class: row === column ? "right" : "wrong", style: { "--share": value / total }, title: `${value} of true class ${labels[row]} taken for ${labels[column]}` }, value || ""),
    );
    return [element("th", { scope: "row" }, labels[row]), ...cells];
  });
  return section("Confusion matrix", element("p", { class: "muted" }, "Rows: the true class. Columns: what the model took it for."), element("div", { class: "confusion" }, table("Confusion matrix", ["", ...labels], rows)));
}

function classes({ classes: known }) {
  if (!known?.length) return null;
  const rows = known.map((one) => [element("th", { scope: "row" }, String(one.label)), ...["precision", "recall", "f1"].map((name) => element("td", { class: "number" }, one[name].toFixed(3))), one.support]);
  return section("By class", table("Measures by class", ["Class", "Precision", "Recall", "F1", "Samples"], rows));
}
