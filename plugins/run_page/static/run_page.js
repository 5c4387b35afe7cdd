// One run: its header, its tabs, and the rhythm in which the visible one is read again while the run lives.

import { ofRun, runOfPage } from "./api.js";
import { badge, element, notice } from "./dom.js";
import { count, duration, number } from "./format.js";
import { LossPanel } from "./loss.js";
import { MergePanel } from "./merge.js";
import { OverviewPanel } from "./overview.js";
import { RanksPanel } from "./ranks.js";
import { ShardMapPanel } from "./shard_map.js";
import { Tabs } from "./tabs.js";
import { ValidationPanel } from "./validation.js";
import { VersionsPanel } from "./versions.js";

const LIVE_EVERY_MS = 2000;
const RESTING_EVERY_MS = 15000;
const TAB_OF_TASK = {
  prepare_dataset: "overview",
  train: "training",
  merge: "merge",
  validate: "validation",
  promote: "versions",
};

const run = runOfPage();
const parts = [
  { id: "overview", title: "Overview", create: (panel) => new OverviewPanel(panel, run) },
  { id: "training", title: "Training", create: (panel) => new LossPanel(panel, run) },
  { id: "ranks", title: "Ranks", create: (panel) => new RanksPanel(panel, run) },
  { id: "shards", title: "Shard map", create: (panel) => new ShardMapPanel(panel, run) },
  { id: "merge", title: "Merge", create: (panel) => new MergePanel(panel, run) },
  { id: "validation", title: "Validation", create: (panel) => new ValidationPanel(panel, run) },
  { id: "versions", title: "Versions", create: (panel) => new VersionsPanel(panel, run) },
];
const tabs = new Tabs(document.querySelector("#tabs"), document.querySelector("#panels"), parts, () => refresh());
let timer = null;
let turn = 0;

// Only the newest call goes on: a tab that was left must not draw over the one that was chosen.
async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  const { content, panel } = tabs.chosen;
  let overview = null;
  content.warmUp?.();
  try {
    overview = await ofRun(run, "overview");
    if (mine !== turn) return;
    showHeader(overview);
    if (overview.has_folder) await content.refresh(overview);
    else
      panel.replaceChildren(
        notice("No task of this run has written anything yet, or this DAG has no run directories."),
      );
    panel.querySelector(":scope > .problem")?.remove();
  } catch (error) {
    if (mine === turn) showProblem(panel, error);
  }
  if (mine !== turn) return;
  document.body.dataset.ready = tabs.chosen.id;
  const live = overview === null || overview.airflow?.is_live;
  timer = setTimeout(() => (document.hidden ? pause() : refresh()), live ? LIVE_EVERY_MS : RESTING_EVERY_MS);
}

function pause() {
  document.addEventListener("visibilitychange", () => refresh(), { once: true });
}

function showProblem(panel, error) {
  panel.querySelector(":scope > .problem")?.remove();
  panel.prepend(element("p", { class: "problem", role: "alert" }, error.message));
}

function showHeader(overview) {
  const { airflow, progress, failures } = overview;
  document.title = `${run.runId} · ${run.dagId}`;
  document.querySelector("#run-id").textContent = run.runId;
  document
    .querySelector("#run-summary")
    .replaceChildren(run.dagId, " ", badge(airflow?.state), " ", progressText(airflow, progress));
  document
    .querySelector("#failures")
    .replaceChildren(...(failures ?? []).map((failure) => failureOf(failure, airflow)));
}

// As failures are named: of a mapped task each part by its number, from 1.
function nameOf(task) {
  return task.map_index >= 0 ? `${task.task_id}-${task.map_index + 1}` : task.task_id;
}

function failureOf(failure, airflow) {
  const [first, ...more] = failure.message.split("\n");
  const state = airflow?.tasks.find((task) => nameOf(task) === failure.task)?.state;
  const goesOn = ["running", "up_for_retry", "queued", "scheduled"].includes(state);
  return element(
    "details",
    { class: "failure" },
    element(
      "summary",
      {},
      element("strong", {}, `${failure.task} failed${goesOn ? ", and is tried again" : ""}: `),
      first,
    ),
    element("pre", {}, [failure.error, first, ...more].join("\n")),
  );
}

function progressText(airflow, progress) {
  if (!progress?.step) return "";
  const { step, steps, steps_per_second: rate, loss } = progress;
  const isTraining = airflow?.tasks.some((task) => task.task_id === "train" && task.state === "running");
  const left = isTraining && steps && rate ? `, about ${duration((steps - step) / rate)} left` : "";
  return `step ${count(step)}${steps ? ` of ${count(steps)}` : ""}, loss ${number(loss)}${left}`;
}

// In the run's own tab, Airflow shows the run's id above this page.
function isBelowTheRunsId() {
  return window.parent !== window && window.parent.location.pathname.includes("/runs/");
}

document.querySelector("#run-id").classList.toggle("hidden", isBelowTheRunsId());
tabs.show(location.hash.slice(1) || TAB_OF_TASK[run.task?.split(".")[0]] || "overview");
