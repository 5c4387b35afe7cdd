// Airflow's own pages, and the way to them. In a frame of Airflow's, a link that leads to another run leaves the frame:
// below the heading of one run there is never the content of another.

import { addressOf } from "./api.js";
import { element } from "./dom.js";

const root = () => location.pathname.split("/run-page/")[0];

export const addressOfRun = ({ dagId, runId }) =>
  `${root()}/dags/${encodeURIComponent(dagId)}/runs/${encodeURIComponent(runId)}`;

export function addressOfTask(run, { task_id: task, map_index: index }, part = "") {
  const mapped = index >= 0 ? `/mapped/${index}` : "";
  return `${addressOfRun(run)}/tasks/${encodeURIComponent(task)}${mapped}${part}`;
}

// Where this page lies in Airflow: the path of the page around its frame, or null without one.
function around() {
  return window.parent === window ? null : decodeURIComponent(window.parent.location.pathname);
}

export const isBelowARun = () => around()?.includes("/runs/") ?? false;

// Whether Airflow shows this very run's id above this page.
export const isBelowTheHeadingOf = ({ dagId, runId }) => around()?.includes(`/dags/${dagId}/runs/${runId}`) ?? false;

// A link out of whatever frame this is.
export const out = (address, ...text) =>
  element("a", { href: address, on: { click: (event) => leave(event, address) } }, ...text);

function leave(event, address) {
  if (window.parent === window || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const { document: outside } = window.parent;
  const link = outside.createElement("a");
  link.href = address;
  outside.body.append(link);
  link.click();
  link.remove();
}

// A link to the page of a run: below Airflow's heading of some run, to Airflow's page of that one.
export function linkToRun(run, ...text) {
  if (isBelowARun()) return out(`${addressOfRun(run)}/plugin/sharded-run`, ...text);
  return element("a", { href: addressOf(run, "run") }, ...text);
}

// The list of runs, in place where no run's heading stands above.
export function linkToAllRuns() {
  const text = "All runs";
  if (isBelowARun()) return out(`${root()}/plugin/sharded-runs`, text);
  return element("a", { href: `${root()}/run-page/` }, text);
}
