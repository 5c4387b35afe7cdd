// The list of runs.

import { get } from "./api.js";
import { badge, element, notice, table } from "./dom.js";
import { moment, number, words } from "./format.js";

const host = document.querySelector("#runs");
const shown = { dag_id: "", offset: 0 };
const PAGE = 50;
const EVERY_MS = 5000;

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
  }
  document.body.dataset.ready = "runs";
}

function show({ runs, dags, has_more: hasMore }) {
  const focused = document.activeElement?.id;
  refresh.dags = [...new Set([...(refresh.dags ?? []), ...dags])].sort();
  const options = ["", ...refresh.dags].map((dag) =>
    element("option", { value: dag, selected: dag === shown.dag_id }, dag || "All DAGs"),
  );
  const select = element("select", { id: "dag", on: { change: (event) => turn(0, event.target.value) } }, options);
  host.replaceChildren(
    element("div", { class: "controls" }, element("label", { for: "dag" }, "DAG ", select)),
    runs.length
      ? table("Runs", ["Run", "DAG", "State", "Started", "Network", "Ranks", "Result", "Version"], runs.map(row))
      : notice("No run has been started yet."),
    element("div", { class: "controls" }, pager("Newer", shown.offset > 0, -PAGE), pager("Older", hasMore, PAGE)),
  );
  if (focused) document.getElementById(focused)?.focus();
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

function row(run) {
  const address = `dags/${encodeURIComponent(run.dag_id)}/run?${new URLSearchParams({ run_id: run.run_id })}`;
  return [
    element("th", { scope: "row" }, element("a", { href: address }, run.run_id)),
    run.dag_id,
    badge(run.state),
    moment(run.started),
    run.network ?? "–",
    run.world_size ?? "–",
    run.problem ?? result(run),
    run.version ? String(run.version) : "–",
  ];
}

function result({ metric, value, passed }) {
  return metric ? `${words(metric)} ${number(value)}${passed === false ? ": not good enough" : ""}` : "–";
}

await refresh();
setInterval(() => document.hidden || refresh(), EVERY_MS);
