// The validation: whether the model may be promoted, its measures, what it confuses or writes, the plots.

import { addressOf, ofRun } from "./api.js";
import { digest, element, facts, notice, section, table } from "./dom.js";
import { count, number, percent, words } from "./format.js";

// Shown in a way of their own; every other number of the report is a fact.
const DRAWN = new Set(["passed", "failures", "metric", "merged", "sharded_logits", "champion"]);

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
      ...(report
        ? [verdict(report), writing(report), confusion(report), classes(report)]
        : [notice("Nothing has been validated yet.")]
      ).filter(Boolean),
      ...(plots.length ? [this.pictures(plots, report)] : []),
    );
  }

  pictures(plots, report) {
    const version = report?.merged?.digest ?? "";
    const figures = plots.map((name) => {
      const title = words(name.replace(/\.png$/, ""));
      return element(
        "figure",
        {},
        element("figcaption", {}, title),
        element("img", { src: addressOf(this.run, "plot", { name, version }), alt: title, loading: "lazy" }),
      );
    });
    return section("Plots", element("div", { class: "plots" }, figures));
  }
}

function verdict(report) {
  const said = report.failures?.length
    ? report.failures.map((failure) => element("p", { class: "problem" }, failure))
    : [element("p", { class: "proved" }, "Good enough to be promoted.")];
  const { metric, merged, champion, sharded_logits: compared } = report;
  const plain = Object.entries(report).filter(
    ([name, value]) => !DRAWN.has(name) && name !== metric && typeof value === "number",
  );
  return section(
    report.passed ? "Passed" : "Failed",
    said,
    facts([
      [words(metric ?? ""), metric ? (metric === "accuracy" ? percent(report.accuracy) : number(report[metric])) : null],
      [`Version ${champion?.version}, current then`, champion ? number(champion.value) : null],
      ...plain.map(([name, value]) => [words(name), Number.isInteger(value) ? count(value) : number(value)]),
      [
        "Merged against sharded",
        compared
          ? `logits differ by ${number(compared.relative_difference, 3)} of the greatest (at most ${number(compared.tolerance)})`
          : null,
      ],
      ["Model", merged ? digest(merged.digest) : null],
      ["Step", merged?.step],
    ]),
  );
}

// What a language model wrote when it was given the prompt.
function writing({ generated }) {
  if (!generated) return null;
  const how = Object.entries(generated)
    .filter(([name, value]) => typeof value === "number")
    .map(([name, value]) => `${words(name).toLowerCase()} ${number(value)}`);
  return section(
    "What it writes",
    element("pre", { class: "sample" }, element("strong", {}, generated.prompt), generated.text),
    element("p", { class: "muted" }, `The prompt is bold; ${how.join(", ")}.`),
  );
}

export function confusion({ confusion_matrix: matrix, classes: known }, title = "Confusion matrix") {
  if (!matrix) return null;
  const labels = matrix.map((_, index) => String(known?.[index]?.label ?? index));
  const rows = matrix.map((counts, row) => {
    const total = counts.reduce((sum, value) => sum + value, 0) || 1;
    const cells = counts.map((value, column) =>
      element(
        "td",
        {
          class: row === column ? "right" : "wrong",
          style: { "--share": value / total },
          title: `${value} of true class ${labels[row]} taken for ${labels[column]}`,
        },
        value || "",
      ),
    );
    return [element("th", { scope: "row" }, labels[row]), ...cells];
  });
  return section(
    title,
    element("p", { class: "muted" }, "Rows: the true class. Columns: what the model took it for."),
    element("div", { class: "confusion" }, table(title, ["", ...labels], rows)),
  );
}

function classes({ classes: known }) {
  if (!known?.length) return null;
  const rows = known.map((one) => [
    element("th", { scope: "row" }, String(one.label)),
    ...["precision", "recall", "f1"].map((name) => element("td", { class: "number" }, one[name].toFixed(3))),
    one.support,
  ]);
  return section("By class", table("Measures by class", ["Class", "Precision", "Recall", "F1", "Samples"], rows));
}
