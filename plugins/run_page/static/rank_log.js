// A rank's log: its end, followed while it grows; earlier pages when asked for; the whole as a download.

import { addressOf, ofRun } from "./api.js";
import { element } from "./dom.js";
import { bytes } from "./format.js";

const PAGE = 64 * 1024;
const MOST_SHOWN = 2 * 1024 * 1024; // characters kept in the page; the download has all

export class RankLog {
  constructor(run) {
    this.run = run;
    this.title = element("h2", { tabindex: -1 });
    this.text = element("pre", { class: "log", tabindex: 0, role: "log", "aria-label": "Log" });
    this.earlier = element("button", { type: "button", on: { click: () => this.loadEarlier() } }, "Earlier");
    this.following = element("input", { type: "checkbox", id: "follow" });
    this.following.checked = true;
    this.download = element("a", { class: "button", download: true }, "Download all");
    const close = element("button", { type: "button", on: { click: () => this.close() } }, "Close");
    const follow = element("label", { for: "follow" }, this.following, " Follow");
    this.node = element(
      "section",
      { hidden: true, id: "rank-log" },
      this.title,
      element("div", { class: "controls" }, this.earlier, follow, this.download, close),
      this.text,
    );
  }

  async open(launch, rank) {
    this.shown = { launch, rank };
    this.node.hidden = false;
    this.download.href = addressOf(this.run, "log-file", this.shown);
    this.text.textContent = "";
    try {
      this.place(await ofRun(this.run, "log", { ...this.shown, length: PAGE }));
    } catch (error) {
      this.text.textContent = error.message;
      this.start = this.end = 0;
      this.title.textContent = `Rank ${rank}`;
    }
    this.title.focus();
  }

  close() {
    this.shown = null;
    this.node.hidden = true;
  }

  place(page) {
    [this.start, this.end] = [page.start, page.end];
    this.text.textContent = page.text;
    this.toEnd();
    this.entitle(page.size);
  }

  entitle(size) {
    this.title.textContent = `Rank ${this.shown.rank}: ${bytes(size)}`;
    this.earlier.disabled = this.start === 0;
  }

  toEnd() {
    this.text.scrollTop = this.text.scrollHeight;
  }

  async follow() {
    if (!this.shown || !this.following.checked) return;
    const asked = this.shown;
    const page = await ofRun(this.run, "log", { ...asked, start: this.end, length: PAGE }).catch(() => null);
    if (!page || asked !== this.shown) return;
    if (page.size < this.end) {
      await this.open(asked.launch, asked.rank); // a new try began a new log
    } else if (page.text) {
      this.end = page.end;
      this.text.append(page.text);
      if (this.text.textContent.length > MOST_SHOWN) await this.open(asked.launch, asked.rank);
      this.toEnd();
      this.entitle(page.size);
    }
  }

  async loadEarlier() {
    const asked = this.shown;
    const start = Math.max(this.start - PAGE, 0);
    this.earlier.disabled = true; // a second click would bring the same page again
    const page = await ofRun(this.run, "log", { ...asked, start, length: this.start - start }).catch(() => null);
    if (asked !== this.shown) return;
    if (!page) {
      this.earlier.disabled = false;
      return;
    }
    this.start = page.start;
    const height = this.text.scrollHeight;
    this.text.prepend(page.text);
    this.text.scrollTop = this.text.scrollHeight - height;
    this.following.checked = false;
    this.entitle(page.size);
  }
}
