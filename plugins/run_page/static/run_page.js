// One run: its header, its tabs, and the rhythm in which the visible one is read again while the run lives.

import { addressOfRun, addressOfTask, isBelowTheHeadingOf, linkToAllRuns, out } from "./airflow.js";
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

const EVERY_MS = 1000;
const TAB_OF_TASK = {
  prepare_dataset: "overview",
  train: "training",
  merge: "merge",
  merge_checkpoint: "merge",
  validate: "validation",
  promote: "versions",
  upload: "versions",
  export: "versions",
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
// What the parameters of a DAG say of its runs: which parts there are to show.
const PARTS_OF_A_MERGE = ["overview", "merge"];
const tabs = new Tabs(document.querySelector("#tabs"), document.querySelector("#panels"), parts, () => refresh());
const seen = new Map(); // by tab, what it was drawn from when the run was at rest
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
    tabs.offer(partsOf(overview));
    if (mine !== turn) return;
    await show(content, panel, overview);
    panel.querySelector(":scope > .problem")?.remove();
  } catch (error) {
    if (mine === turn) showProblem(panel, error);
  }
  if (mine !== turn) return;
  document.body.dataset.ready = tabs.chosen.id;
  timer = setTimeout(() => (document.hidden ? pause() : refresh()), EVERY_MS);
}

// A run at rest that nothing has changed is not read again.
async function show(content, panel, overview) {
  const now = overview.airflow?.is_live ? null : JSON.stringify(overview);
  if (now !== null && now === seen.get(content)) return;
  if (overview.has_folder || content instanceof OverviewPanel) await content.refresh(overview);
  else panel.replaceChildren(notice(waiting(overview)));
  seen.set(content, now);
}

function waiting({ airflow }) {
  const goesOn = airflow?.is_live ? " It is waited for: this page follows by itself." : "";
  return `No task of this run has written anything yet, or this DAG has no run directories.${goesOn}`;
}

function partsOf({ kind }) {
  return kind === "merge" ? PARTS_OF_A_MERGE : parts.map((part) => part.id);
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
  showWays(overview);
  showFailures((failures ?? []).map((failure) => [failure, taskOf(failure, airflow)]));
}

// To Airflow's page of the run, to an approval that somebody is waited for, to the version that came of it.
function showWays({ airflow, promotion }) {
  const asked = airflow?.tasks.find((task) => task.state === "awaiting_input");
  const ways = [
    linkToAllRuns(),
    airflow && out(addressOfRun(run), "The run in Airflow"),
    asked && out(addressOfTask(run, asked, "/required_actions"), `${asked.task_id} waits for an answer`),
    promotion?.version && element("a", { href: "#versions" }, versionText(promotion)),
  ].filter(Boolean);
  const now = JSON.stringify([ways.length, asked, promotion]);
  if (now === showWays.seen) return;
  showWays.seen = now;
  document.querySelector("#ways").replaceChildren(...ways.flatMap((way) => [way, " "]));
}

const versionText = ({ version, new: isNew }) =>
  isNew === false ? `The same bytes as version ${version}` : `Version ${version}`;

// As failures are named: of a mapped task each part by its number, from 1.
function nameOf(task) {
  return task.map_index >= 0 ? `${task.task_id}-${task.map_index + 1}` : task.task_id;
}

const taskOf = (failure, airflow) => airflow?.tasks.find((task) => nameOf(task) === failure.task);

// Drawn again only where something changed, so that what somebody has unfolded stays so.
function showFailures(found) {
  const now = JSON.stringify(found.map(([failure, task]) => [failure, task?.state]));
  if (now === showFailures.seen) return;
  showFailures.seen = now;
  document.querySelector("#failures").replaceChildren(...found.map(([failure, task]) => failureOf(failure, task)));
}

function failureOf(failure, task) {
  const [first, ...more] = failure.message.split("\n");
  const goesOn = ["running", "up_for_retry", "queued", "scheduled"].includes(task?.state);
  const declined = task?.state === "skipped";
  const became = declined ? "declined" : `failed${goesOn ? ", and is tried again" : ""}`;
  return element(
    "details",
    { class: declined ? "failure declined" : "failure" },
    element("summary", {}, element("strong", {}, `${failure.task} ${became}: `), first),
    element("pre", {}, [failure.error, first, ...more].join("\n")),
    task && element("p", {}, out(addressOfTask(run, task), "Its log in Airflow, and Clear")),
  );
}

function progressText(airflow, progress) {
  if (!progress?.step) return "";
  const { step, steps, steps_per_second: rate, loss } = progress;
  const training = airflow?.tasks.find((task) => task.task_id === "train")?.state;
  const left = training === "running" && steps && rate ? `, about ${duration(Math.max(steps - step, 0) / rate)} left` : "";
  const ended = training === "success" ? ", training has finished" : left;
  return `step ${count(step)}${steps ? ` of ${count(steps)}` : ""}, loss ${number(loss)}${ended}`;
}

document.querySelector("#run-id").classList.toggle("hidden", isBelowTheHeadingOf(run));
tabs.show(location.hash.slice(1) || TAB_OF_TASK[run.task?.split(".")[0]] || "overview");
