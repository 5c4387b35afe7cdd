// At a glance: the tasks, how far training is, the data, the parameters.

import { addressOfTask, out } from "./airflow.js";
import { badge, digest, element, facts, section, table } from "./dom.js";
import { count, duration, moment, number, percent, words } from "./format.js";

export class OverviewPanel {
  constructor(panel, run) {
    this.panel = panel;
    this.run = run;
  }

  async refresh(overview) {
    const open = this.panel.querySelector("details")?.open;
    this.panel.replaceChildren(
      ...[
        tasks(this.run, overview.airflow),
        overview.kind === "training" && progress(overview),
        dataset(overview.dataset),
        phases(overview.train),
        overview.config && parameters(overview.config, open),
      ].filter(Boolean),
    );
  }
}

function tasks(run, airflow) {
  if (!airflow)
    return section("Tasks", element("p", {}, "Airflow no longer knows this run; its folder is still here."));
  const rows = airflow.tasks.map((task) => [
    element("th", { scope: "row" }, task.map_index >= 0 ? `${task.task_id} [${task.map_index}]` : task.task_id),
    badge(task.state),
    moment(task.started),
    duration(task.duration),
    task.try_number || "–",
    inAirflow(run, task),
  ]);
  const headings = ["Task", "State", "Started", "Duration", "Try", "In Airflow"];
  return section("Tasks", table("Tasks of this run", headings, rows));
}

function inAirflow(run, task) {
  if (task.state === "awaiting_input") return out(addressOfTask(run, task, "/required_actions"), "Answer");
  return out(addressOfTask(run, task), task.started ? "Log, Clear" : "Clear");
}

function progress({ progress, config, airflow }) {
  if (!progress?.step) return section("Training", element("p", {}, "No step yet."));
  const finished = airflow?.tasks.some((task) => task.task_id === "train" && task.state === "success");
  const share = finished ? 1 : progress.steps ? Math.min(progress.step / progress.steps, 1) : null;
  const bar = element("progress", { max: 1, value: share, "aria-label": "Steps done" });
  return section(
    "Training",
    element("p", { class: "bar" }, bar, share === null ? "" : finished ? "finished" : percent(share)),
    facts([
      ["Step", progress.steps ? `${count(progress.step)} of ${count(progress.steps)}` : count(progress.step)],
      ["Epoch", config?.epochs ? `${progress.epoch} of ${config.epochs}` : progress.epoch],
      ["Loss", progress.loss === null ? null : number(progress.loss)],
      ["Ranks", config?.world_size],
      ["Network", config?.network],
    ]),
  );
}

function dataset(found) {
  if (!found) return null;
  const known = Object.entries(found).filter(([, value]) => value !== null && typeof value !== "object");
  const splits = Object.entries(found).filter(([, value]) => typeof value?.count === "number");
  return section(
    "Data",
    facts([
      ...known.map(([name, value]) => [words(name), /^[0-9a-f]{64}$/.test(value) ? digest(value) : value]),
      ...splits.map(([name, value]) => [words(name), count(value.count)]),
    ]),
  );
}

function phases(train) {
  const spent = Object.entries(train?.phases ?? {}).filter(([, seconds]) => typeof seconds === "number");
  if (!spent.length) return null;
  const longest = Math.max(...spent.map(([, seconds]) => seconds));
  const rows = spent.map(([name, seconds]) => [
    element("th", { scope: "row" }, words(name)),
    duration(seconds),
    element("meter", { min: 0, max: longest, value: seconds, "aria-label": words(name) }),
  ]);
  return section("Where training's time went", table("Phases of training", ["Phase", "Time", ""], rows));
}

function parameters(config, open) {
  // Of a described training, what was chosen stands in `values`, and the description itself in `training`.
  const { values, training, ...others } = config;
  const rows = Object.entries({ ...values, ...others, ...(training && { training }) }).map(([name, value]) => [
    element("th", { scope: "row" }, name),
    element("code", {}, typeof value === "string" ? value : JSON.stringify(value)),
  ]);
  return element(
    "details",
    { open },
    element("summary", {}, "Parameters"),
    table("Parameters of this run", ["Name", "Value"], rows),
  );
}
