// The merge: what there is to merge, what was merged into what, what was proved, what was refused.

import { ofRun } from "./api.js";
import { digest, element, facts, notice, section, table } from "./dom.js";
import { bytes, count, counted, duration, shape, words } from "./format.js";

export class MergePanel {
  constructor(panel, run) {
    this.panel = panel;
    this.run = run;
  }

  async refresh(overview) {
    const found = await ofRun(this.run, "merge");
    const refusal = overview.failures?.find((failure) => failure.task.startsWith("merge"));
    const seen = JSON.stringify([found, refusal]);
    if (seen === this.seen) return;
    this.seen = seen;
    this.panel.replaceChildren(
      ...[
        refusal && refused(refusal),
        found.resharded ? resharded(found.resharded) : merged(found),
        overview.kind === "training" && plan(found),
        found.record && details(found.record),
      ].filter(Boolean),
    );
  }
}

const refused = (refusal) =>
  section(
    "Refused",
    element("p", { class: "problem" }, element("strong", {}, refusal.error)),
    element("pre", {}, refusal.message),
  );

const readAgain = ({ tensors, slices_compared: slices }) =>
  `${counted(tensors, "tensor")} ${tensors === 1 ? "was" : "were"} read again and compared with ${counted(slices, "slice")}`;

function resharded(found) {
  return section(
    "Result",
    element(
      "p",
      { class: "proved" },
      `${readAgain(found)}: all equal.`,
    ),
    facts([
      ["Slices for", counted(found.world_size, "rank")],
      ["Written", `${bytes(found.bytes)} in ${counted(found.files, "file")}, ${found.format}`],
      ["Step", found.step],
      ["Folder", element("code", {}, found.folder)],
    ]),
  );
}

function merged({ record, seconds, did_nothing: didNothing }) {
  if (!record) return section("Result", notice("Nothing has been merged yet."));
  const { inputs, output, proof } = record;
  const written = output.reduce((sum, file) => sum + file.size, 0);
  const checked = proof
    ? `${readAgain(proof)}, ${bytes(proof.bytes_compared)}, replicas included: all equal.`
    : "The output was not read again: this merge was asked not to.";
  return section(
    "Result",
    element("p", { class: proof ? "proved" : "notice" }, checked),
    didNothing && notice("The newest try of the task found this up to date: it merged nothing. What stands here is earlier."),
    facts([
      ["Step", inputs.step],
      ["Read", `${counted(inputs.files, "file")}, ${bytes(inputs.bytes)}`],
      ["Written", `${bytes(written)} in ${counted(output.length, "file")}`],
      ["Task's time", seconds === null ? null : duration(seconds)],
      ["Throughput of the task", seconds && !didNothing ? `${bytes(Math.round(inputs.bytes / seconds))}/s` : null],
      [
        "Complete shard set",
        inputs.manifest === undefined ? null : inputs.manifest ? "by its manifest" : "by the files' names: no manifest",
      ],
    ]),
    table(
      "Files written",
      ["File", "Size", "BLAKE3"],
      output.map((file) => [
        element("th", { scope: "row" }, file.name),
        bytes(file.size),
        digest(file.digest),
      ]),
    ),
    swaps(record.swaps_undetectable_among_ranks),
  );
}

const swaps = (groups) =>
  groups?.length
    ? notice(
        `Swapped folders could not have been noticed among ranks ${groups.map((ranks) => ranks.join(", ")).join("; ")}.`,
      )
    : null;

function plan({ shard_sets: sets, record }) {
  if (!sets.length) return section("To merge", notice("No shard set is complete yet."));
  const rows = sets.map((one, index) => [
    element("th", { scope: "row" }, count(one.step)),
    one.epoch,
    one.world_size,
    bytes(one.bytes),
    one.integrated ? "whole model on every rank" : "slices",
    String(one.step) === String(record?.inputs.step)
      ? "merged"
      : index === 0
        ? "newest: merged next, unless a step is chosen"
        : "",
  ]);
  return section(
    "Complete shard sets",
    table("Complete shard sets", ["Step", "Epoch", "Ranks", "Size", "Holds", ""], rows),
  );
}

function details({ tensors, options, versions }) {
  const rows = tensors.map((one) => [
    element("th", { scope: "row" }, one.name),
    one.source_type ? `${one.source_type} → ${one.type}` : one.type,
    shape(one.shape),
    element("td", { class: "number" }, count(one.slices_compared)),
    digest(one.digest),
  ]);
  const plain = Object.entries({ ...options, ...versions }).map(([name, value]) => [
    words(name),
    typeof value === "string" ? value : JSON.stringify(value),
  ]);
  return element(
    "details",
    {},
    element("summary", {}, `${counted(tensors.length, "tensor")}, options and versions`),
    facts(plain),
    table("Merged tensors", ["Tensor", "Type", "Shape", "Slices compared", "BLAKE3"], rows),
  );
}
