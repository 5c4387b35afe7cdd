// The versions of the run's model, and which one is current.

import { linkToRun } from "./airflow.js";
import { ofRun } from "./api.js";
import { element, facts, notice, section, table } from "./dom.js";
import { count, digest, number, words } from "./format.js";

export class VersionsPanel {
  constructor(panel, run) {
    this.panel = panel;
    this.run = run;
  }

  async refresh() {
    const { model, current, versions, damaged } = await ofRun(this.run, "versions");
    if (!versions.length && !damaged.length) {
      this.panel.replaceChildren(notice(`No version of ${model || "this model"} has been promoted yet.`));
      return;
    }
    const rows = versions.map((one) => [
      element(
        "th",
        { scope: "row" },
        `${one.version} `,
        one.version === current ? element("span", { class: "badge", "data-state": "success" }, "current") : "",
      ),
      one.metric ? `${words(one.metric)} ${number(one.value)}` : "–",
      element("td", { class: "number" }, count(one.step)),
      element("code", { title: one.digest }, digest(one.digest)),
      runOf(one),
    ]);
    const shown = this.panel.querySelector("details")
      ? [...this.panel.querySelectorAll("details[open]")].map((details) => Number(details.dataset.version))
      : [current];
    const headings = ["Version", "Measure", "Step", "BLAKE3", "Run"];
    this.panel.replaceChildren(
      section(
        `Versions of ${model}`,
        element("p", {}, current === null ? "None is current." : `Version ${current} is current.`),
        table("Versions", headings, rows),
        ...versions.filter(({ lineage }) => lineage).map((one) => origin(one, shown.includes(one.version))),
        ...damaged.map((problem) => notice(problem)),
      ),
    );
  }
}

function runOf({ of_this_run: isThis, run, identity }) {
  if (isThis) return element("strong", {}, "this run");
  if (!identity) return run ?? "of a DAG that you may not see";
  return linkToRun({ dagId: identity.dag_id, runId: identity.run_id }, `${identity.dag_id}/${identity.run_id}`);
}

// From which data, by which code: the digests that `shardline models show` prints.
function origin({ version, lineage: { data, start, shard_set: set, strategies, merged, code } }, open) {
  const newest = code.at(-1);
  return element(
    "details",
    { open, "data-version": version },
    element("summary", {}, `From what version ${version} was made`),
    facts([
      ["Data", data && whole(data.digest)],
      ["Began with", start && Object.entries(start).map(([name, value]) => `${words(name)} ${value}`).join(", ")],
      ["Shard set", set && whole(set.digest)],
      ["Strategy", strategies.length ? strategies.map(whole) : null],
      ["Merged file", merged && whole(merged.digest)],
      ["Shardline", newest && commit(newest.shardline, newest.shardline.version)],
      ["Program", newest?.program && commit(newest.program, newest.program.folder)],
      ["Other code", code.length > 1 ? `${code.length - 1} before, while it was trained` : null],
    ]),
  );
}

const whole = (hex) => element("code", { title: hex }, digest(hex));

function commit({ commit: hex, changed }, what) {
  if (!hex) return `${what}, in no git checkout`;
  const state = changed === null ? "" : changed ? ", with changes" : ", without changes";
  return [`${what}, `, whole(hex), state];
}
