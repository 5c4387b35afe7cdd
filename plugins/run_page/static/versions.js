// The versions of the run's model, which one is current, from what each was made, and what was exported of it.

import { linkToRun } from "./airflow.js";
import { ofRun } from "./api.js";
import { digest, element, facts, notice, section, table } from "./dom.js";
import { bytes, count, counted, number, words } from "./format.js";

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
      digest(one.digest),
      runOf(one),
    ]);
    const drawn = [...this.panel.querySelectorAll("details")];
    const own = versions.filter((one) => one.of_this_run).map((one) => one.version);
    const isOpen = (part, version) =>
      drawn.find((one) => one.dataset.part === `${part} ${version}`)?.open ??
      (own.length ? own.includes(version) : version === current);
    const headings = ["Version", "Measure", "Step", "BLAKE3", "Run"];
    this.panel.replaceChildren(
      section(
        `Versions of ${model}`,
        element("p", {}, current === null ? "None is current." : `Version ${current} is current.`),
        table("Versions", headings, rows),
        ...versions.flatMap((one) => [
          one.lineage && origin(one, isOpen("origin", one.version)),
          one.export && exported(one, isOpen("export", one.version)),
        ]),
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
function origin({ version, lineage: { data, start, shard_set: set, strategies, merged, code } }, isOpen) {
  const newest = code.at(-1);
  return element(
    "details",
    { open: isOpen, "data-part": `origin ${version}` },
    element("summary", {}, `From what version ${version} was made`),
    facts([
      ["Data", data && digest(data.digest)],
      ["Began with", start && Object.entries(start).map(([name, value]) => `${words(name)} ${value}`).join(", ")],
      ["Shard set", set && digest(set.digest)],
      ["Strategy", strategies.length ? strategies.map(digest) : null],
      ["Merged file", merged && digest(merged.digest)],
      ["Shardline", newest && commit(newest.shardline, newest.shardline.version)],
      ["Program", newest?.program && commit(newest.program, newest.program.folder)],
      ["Other code", code.length > 1 ? `${code.length - 1} before, while it was trained` : null],
    ]),
  );
}

// What `transformers` may load, and what was proved of that: bytes alone, or what the model computes as well.
function exported({ version, export: found }, isOpen) {
  const title = `Version ${version} for Hugging Face`;
  if (found.problem) return notice(`${title}: ${found.problem}`);
  return element(
    "details",
    { open: isOpen, "data-part": `export ${version}` },
    element("summary", {}, title),
    element("p", { class: "proved" }, `Bytes: ${found.compared_bytes}. ${proofOf(found)}`),
    facts([
      ["Folder", element("code", {}, found.folder)],
      ["Mapping", [`${found.mapping}, `, digest(found.mapping_digest)]],
      ["Exported", `${counted(found.tensors, "tensor")}, ${bytes(found.bytes)}, ${counted(found.files, "file")}`],
      ["Left out", found.left_out.length ? counted(found.left_out.length, "tensor") : null],
    ]),
  );
}

function proofOf({ logits, said }) {
  if (!logits) return `Logits: not compared: ${said.replace(/^proved by bytes alone: /, "")}.`;
  const { samples, relative_difference: difference, tolerance } = logits;
  return `Logits: transformers loads the folder strictly, and on ${counted(samples, "sample")} computes what the sharded ranks did, to ${number(difference)} of the greatest; at most ${number(tolerance)} was allowed.`;
}

function commit({ commit: hex, changed }, what) {
  if (!hex) return `${what}, in no git checkout`;
  const state = changed === null ? "" : changed ? ", with changes" : ", without changes";
  return [`${what}, `, digest(hex), state];
}
