// At a glance: the tasks, how far training is, the data, the parameters.

import { badge, element, facts, section, table } from "./dom.js";
import { count, digest, duration, moment, number, percent, words } from "./format.js";

export class OverviewPanel {
  constructor(panel) {
    this.panel = panel;
  }

  async refresh(overview) {
    const open = this.panel.querySelector("details")?.open;
    this.panel.replaceChildren(
      ...[tasks(overview.airflow), progress(overview), dataset(overview.dataset), phases(overview.train)].filter(
        Boolean,
      ),
      parameters(overview.config, open),
    );
  }
}

function tasks(airflow) {
  if (!airflow)
    return section("Tasks", element("p", {}, "Airflow no longer knows this run; its folder is still here."));
  const rows = airflow.tasks.map((task) => [
    element("th", { scope: "row" }, task.map_index >= 0 ? `${task.task_id} [${task.map_index}]` : task.task_id),
    badge(task.state),
    moment(task.started),
    duration(task.duration),
    task.try_number || "–",
  ]);
  return section("Tasks", table("Tasks of this run", ["Task", "State", "Started", "Duration", "Try"], rows));
}

function progress({ progress, config }) {
  if (!progress?.step) return section("Training", element("p", {}, "No step yet."));
  const share = progress.steps ? Math.min(progress.step / progress.steps, 1) : null;
  const bar = element("progress", { max: 1, value: share, "aria-label": "Steps done" });
  return section(
    "Training",
    element("p", { class: "bar" }, bar, share === null ? "" : percent(share)),
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
  const rows = Object.entries(config ?? {}).map(([name, value]) => [
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
