// The list of runs: sorted by any column, ticked to be compared.

import { get } from "./api.js";
import { badge, element, notice, table } from "./dom.js";
import { count, duration, moment, number, words } from "./format.js";

const host = document.querySelector("#runs");
const shown = { dag_id: "", offset: 0 };
const PAGE = 50;
const EVERY_MS = 2000;
const MOST_COMPARED = 5;

// Of each column: its heading, what it is sorted by, what stands in it.
const COLUMNS = [
  ["Run", (run) => run.run_id, (run) => element("th", { scope: "row" }, element("a", { href: addressOf(run) }, run.run_id))],
  ["DAG", (run) => run.dag_id],
  ["State", (run) => run.state, (run) => badge(run.state)],
  ["Started", (run) => run.started, (run) => moment(run.started)],
  ["Duration", (run) => run.seconds, (run) => duration(run.seconds)],
  ["Step", (run) => run.step, (run) => count(run.step)],
  ["Loss", (run) => run.loss, (run) => number(run.loss)],
  ["Result", (run) => run.value, (run) => run.problem ?? result(run)],
  ["Version", (run) => run.version],
  ["Network", (run) => run.parameters?.network],
  ["Ranks", (run) => run.parameters?.world_size],
  ["Epochs", (run) => run.parameters?.epochs],
  ["Batch", (run) => run.parameters?.batch_size],
  ["Learning rate", (run) => run.parameters?.learning_rate],
  ["Optimizer", (run) => run.parameters?.optimizer],
];
const sorting = { column: null, descending: false };
const ticked = new Map();

async function refresh() {
  const query = new URLSearchParams({
    limit: PAGE,
    offset: shown.offset,
    ...(shown.dag_id ? { dag_id: shown.dag_id } : {}),
  });
  try {
    const found = await get(new URL(`runs?${query}`, location.href));
    const seen = JSON.stringify(found);
    if (seen !== refresh.seen) show(found);
    refresh.seen = seen;
  } catch (error) {
    host.replaceChildren(element("p", { class: "problem", role: "alert" }, error.message));
    refresh.seen = null;
  }
  document.body.dataset.ready = "runs";
}

function show(found) {
  show.last = found;
  const { runs, dags, has_more: hasMore } = found;
  const focused = document.activeElement?.id;
  refresh.dags = [...new Set([...(refresh.dags ?? []), ...dags])].sort();
  const options = ["", ...refresh.dags].map((dag) =>
    element("option", { value: dag, selected: dag === shown.dag_id }, dag || "All DAGs"),
  );
  const select = element("select", { id: "dag", on: { change: (event) => turn(0, event.target.value) } }, options);
  host.replaceChildren(
    element("div", { class: "controls" }, element("label", { for: "dag" }, "DAG ", select), compare()),
    runs.length ? list(sorted(runs)) : notice("No run has been started yet."),
    element("div", { class: "controls" }, pager("Newer", shown.offset > 0, -PAGE), pager("Older", hasMore, PAGE)),
  );
  if (focused) document.getElementById(focused)?.focus();
}

function list(runs) {
  const made = table("Runs", [element("span", { class: "hidden" }, "Compare"), ...COLUMNS.map(heading)], runs.map(row));
  const cells = made.querySelectorAll("thead th");
  if (sorting.column !== null)
    cells[sorting.column + 1].setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
  return made;
}

function heading([title], index) {
  const mark = sorting.column === index ? (sorting.descending ? " ▾" : " ▴") : "";
  return element(
    "button",
    { type: "button", class: "link", id: `by-${index}`, on: { click: () => sort(index) } },
    title + mark,
  );
}

function sort(index) {
  sorting.descending = sorting.column === index && !sorting.descending;
  sorting.column = index;
  show(show.last);
}

// Rows without a value come last, whichever way.
function sorted(runs) {
  if (sorting.column === null) return runs;
  const by = COLUMNS[sorting.column][1];
  const sign = sorting.descending ? -1 : 1;
  const missing = (value) => value === null || value === undefined;
  return runs.toSorted((one, other) => {
    const [a, b] = [by(one), by(other)];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  });
}

const pager = (title, possible, by) =>
  element(
    "button",
    { type: "button", id: title, disabled: !possible, on: { click: () => turn(shown.offset + by, shown.dag_id) } },
    title,
  );

function turn(offset, dag) {
  Object.assign(shown, { offset: Math.max(offset, 0), dag_id: dag });
  refresh();
}

const nameOf = (run) => `${run.dag_id}/${run.run_id}`;

const addressOf = (run) =>
  `dags/${encodeURIComponent(run.dag_id)}/run?${new URLSearchParams({ run_id: run.run_id })}`;

function row(run) {
  const cells = COLUMNS.map(([, value, cell]) => (cell ?? ((one) => value(one) ?? "–"))(run));
  return [element("td", {}, tick(run)), ...cells];
}

function tick(run) {
  const name = nameOf(run);
  const box = element("input", {
    type: "checkbox",
    id: `tick-${name}`,
    "aria-label": `Compare ${run.run_id}`,
    disabled: !run.has_folder || (!ticked.has(name) && ticked.size >= MOST_COMPARED),
    on: { change: (event) => mark(name, event.target.checked) },
  });
  box.checked = ticked.has(name);
  return box;
}

function mark(name, wanted) {
  if (wanted) ticked.set(name, true);
  else ticked.delete(name);
  show(show.last);
}

function compare() {
  const query = new URLSearchParams([...ticked.keys()].map((name) => ["run", name]));
  const text = `Compare ${ticked.size || ""} runs`.replace("  ", " ");
  if (ticked.size < 2) return element("span", { class: "muted" }, "Tick two runs or more to compare them.");
  return element("a", { class: "button", id: "compare", href: `compare?${query}` }, text);
}

function result({ metric, value, passed }) {
  return metric ? `${words(metric)} ${number(value)}${passed === false ? ": not good enough" : ""}` : "–";
}

await refresh();
setInterval(() => document.hidden || refresh(), EVERY_MS);
