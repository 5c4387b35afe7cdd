// Several runs side by side: what became of them, what differs in their parameters, their curves, what they confuse.
// The address names the runs: whoever gets it sees the same, as far as they may see these runs.

import { ofRun } from "./api.js";
import { badge, element, notice, section, table } from "./dom.js";
import { count, duration, number, percent, words } from "./format.js";
import { LossPanel } from "./loss.js";
import { confusion } from "./validation.js";

const EVERY_MS = 2000;
const host = document.querySelector("#comparison");
const runs = new URLSearchParams(location.search).getAll("run").map(named);
const curves = element("div");
const panel = new LossPanel(curves, runs[0], runs.slice(1));
const parts = ["outcomes", "differences", "confusions"].map((id) => element("div", { id }));

function named(name) {
  const at = name.indexOf("/");
  return { dagId: name.slice(0, at), runId: name.slice(at + 1) };
}

async function refresh() {
  try {
    const found = await Promise.all(runs.map(read));
    const seen = JSON.stringify(found);
    if (seen !== refresh.seen) await show(found);
    refresh.seen = seen;
  } catch (error) {
    parts[0].replaceChildren(element("p", { class: "problem", role: "alert" }, error.message));
    refresh.seen = null;
  }
  document.body.dataset.ready = "comparison";
}

async function read(run) {
  const [overview, { report }] = await Promise.all([ofRun(run, "overview"), ofRun(run, "validation")]);
  return { run, overview, report };
}

async function show(found) {
  parts[0].replaceChildren(outcomes(found));
  parts[1].replaceChildren(differences(found));
  parts[2].replaceChildren(confusions(found));
  await panel.refresh({ progress: { step: Math.max(...found.map(({ overview }) => overview.progress?.step ?? 0)) } });
}

const heads = (found) => ["", ...found.map(({ run }) => linkTo(run))];

function linkTo({ dagId, runId }) {
  const query = new URLSearchParams({ run_id: runId });
  return element("a", { href: `dags/${encodeURIComponent(dagId)}/run?${query}`, title: dagId }, runId);
}

const line = (title, found, value) => [element("th", { scope: "row" }, title), ...found.map((one) => value(one) ?? "–")];

function outcomes(found) {
  const metrics = [...new Set(found.map(({ report }) => report?.metric).filter(Boolean))];
  const rows = [
    line("State", found, ({ overview }) => badge(overview.airflow?.state)),
    line("Duration", found, ({ overview }) => duration(secondsOf(overview.airflow))),
    line("Steps", found, ({ overview }) => count(overview.progress?.step)),
    line("Loss", found, ({ overview }) => number(overview.progress?.loss)),
    ...metrics.map((metric) => line(words(metric), found, ({ report }) => measure(metric, report))),
    line("Version", found, ({ overview }) => overview.promotion && String(overview.promotion.version)),
  ];
  return section("What became of them", table("What became of them", heads(found), rows));
}

function measure(metric, report) {
  if (report?.metric !== metric) return null;
  return metric === "accuracy" ? percent(report.accuracy) : number(report[metric]);
}

function secondsOf(airflow) {
  if (!airflow?.started) return null;
  const end = airflow.ended ? new Date(airflow.ended) : new Date();
  return (end - new Date(airflow.started)) / 1000;
}

function differences(found) {
  const configs = found.map(({ overview }) => overview.config ?? {});
  const names = [...new Set(configs.flatMap(Object.keys))].sort();
  const rows = names
    .map((name) => [name, configs.map((config) => text(config[name]))])
    .filter(([, values]) => new Set(values).size > 1)
    .map(([name, values]) => [
      element("th", { scope: "row" }, name),
      ...values.map((value) => element("code", {}, value ?? "not given")),
    ]);
  return section(
    "What differs in their parameters",
    rows.length ? table("Parameters that differ", heads(found), rows) : notice("Their parameters are all the same."),
  );
}

const text = (value) => (value === undefined ? undefined : typeof value === "string" ? value : JSON.stringify(value));

function confusions(found) {
  const drawn = found.flatMap(({ run, report }) => {
    const matrix = report && confusion(report, `Confusion matrix of ${run.runId}`);
    return matrix ? [matrix] : [];
  });
  return element("div", { class: "plots" }, drawn);
}

if (runs.length < 2 || runs.some((run) => !run.dagId || !run.runId)) {
  host.replaceChildren(notice("Tick two runs or more in the list of runs: the address names them, as run=DAG/RUN."));
} else {
  const address = element("input", { id: "address", readonly: true, value: location.href, size: 60 });
  const share = element("label", { class: "controls", for: "address" }, "The address of this comparison ", address);
  host.replaceChildren(share, parts[0], parts[1], section("Curves", curves), parts[2]);
  await refresh();
  setInterval(() => document.hidden || refresh(), EVERY_MS);
}
