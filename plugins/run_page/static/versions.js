// The versions of the run's model, and which one is current.

import { linkToRun } from "./airflow.js";
import { ofRun } from "./api.js";
import { element, notice, section, table } from "./dom.js";
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
    const headings = ["Version", "Measure", "Step", "BLAKE3", "Run"];
    this.panel.replaceChildren(
      section(
        `Versions of ${model}`,
        element("p", {}, current === null ? "None is current." : `Version ${current} is current.`),
        table("Versions", headings, rows),
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
