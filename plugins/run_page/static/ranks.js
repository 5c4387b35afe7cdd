// The ranks: how each one is, and its log.

import { ofRun } from "./api.js";
import { badge, element, notice, table } from "./dom.js";
import { bytes, count, counted, duration, moment, number } from "./format.js";
import { RankLog } from "./rank_log.js";

export class RanksPanel {
  constructor(panel, run) {
    this.run = run;
    this.launch = "1";
    this.select = element("select", { id: "launch", on: { change: () => this.choose() } });
    this.host = element("div");
    this.log = new RankLog(run);
    const controls = element("div", { class: "controls" }, element("label", { for: "launch" }, "Try ", this.select));
    this.parts = [controls, this.host, this.log.node];
    this.panel = panel;
  }

  async refresh() {
    if (!this.panel.contains(this.host)) this.panel.replaceChildren(...this.parts);
    const found = await ofRun(this.run, "ranks", { launch: this.launch });
    this.offer(found.launches);
    const seen = JSON.stringify(found.ranks);
    if (seen !== this.seen) this.show(found.ranks);
    this.seen = seen;
    await this.log.follow();
  }

  choose() {
    this.launch = this.select.value;
    this.log.close();
    this.refresh();
  }

  offer(launches) {
    const names = launches.map((one) => one.name).join();
    if (names === this.offered) return;
    this.offered = names;
    this.select.replaceChildren(
      ...launches.map((one) =>
        element("option", { value: one.name, selected: one.name === this.launch }, titleOf(one)),
      ),
    );
  }

  show(ranks) {
    if (!ranks.length) {
      this.host.replaceChildren(notice("No rank has been started yet."));
      return;
    }
    const focused = document.activeElement?.dataset?.rank;
    const furthest = Math.max(...ranks.map((rank) => rank.step ?? 0));
    const rows = ranks.map((rank) => this.row(rank, furthest));
    const headings = ["Rank", "State", "Log", "Step", "Steps/s", "Memory", "Peak", "In collectives", "Last word"];
    this.host.replaceChildren(summaryOf(ranks), table("Ranks", headings, rows));
    if (focused) this.host.querySelector(`[data-rank="${Number(focused)}"]`)?.focus();
  }

  row(rank, furthest) {
    const slack = 10 * (rank.steps_per_second ?? 1); // ranks write their records seconds apart
    const behind = rank.state === "running" && rank.step !== null && furthest - rank.step > slack;
    const open = element(
      "button",
      {
        type: "button",
        "data-rank": rank.rank,
        "aria-label": `Log of rank ${rank.rank}`,
        on: { click: () => this.log.open(this.launch, rank.rank) },
      },
      "Log",
    );
    return [
      element(
        "th",
        {
          scope: "row",
          title: [rank.host, rank.pid && `process ${rank.pid}`, rank.started && moment(rank.started)]
            .filter(Boolean)
            .join(", "),
        },
        String(rank.rank),
      ),
      badge(rank.state),
      open,
      element(
        "td",
        { class: "number" },
        count(rank.step),
        behind ? element("span", { class: "behind" }, ` ${count(furthest - rank.step)} behind`) : "",
      ),
      element("td", { class: "number" }, number(rank.steps_per_second, 3)),
      element("td", { class: "number" }, bytes(rank.memory_bytes)),
      element("td", { class: "number" }, bytes(rank.peak_memory_bytes)),
      element("td", { class: "number" }, duration(rank.collectives_seconds)),
      element("td", { class: "word" }, rank.failure ?? rank.last_lines[0] ?? ""),
    ];
  }
}

function summaryOf(ranks) {
  const states = Map.groupBy ? Map.groupBy(ranks, (rank) => rank.state) : new Map();
  const parts = [...states].map(([state, those]) => `${those.length} ${state}`);
  return element("p", { class: "muted", role: "status" }, `${counted(ranks.length, "rank")}: ${parts.join(", ")}`);
}

const titleOf = ({ task, attempt }) => (attempt === null ? `${task}, newest` : `${task}, try ${attempt}`);
