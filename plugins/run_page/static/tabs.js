// Tabs after the ARIA pattern: arrows move, Home and End jump, the address' fragment remembers.

import { element, notice } from "./dom.js";

export class Tabs {
  constructor(list, panels, parts, onChange) {
    this.onChange = onChange;
    this.parts = parts.map(({ id, title, create }) => {
      const panel = element("div", {
        role: "tabpanel",
        id: `panel-${id}`,
        "aria-labelledby": `tab-${id}`,
        tabindex: 0,
      });
      panel.append(notice("Loading…"));
      const tab = element(
        "button",
        {
          role: "tab",
          id: `tab-${id}`,
          type: "button",
          "aria-controls": `panel-${id}`,
          on: { click: () => this.show(id) },
        },
        title,
      );
      list.append(tab);
      panels.append(panel);
      return { id, tab, panel, content: create(panel) };
    });
    list.addEventListener("keydown", (event) => this.move(event));
    addEventListener("hashchange", () => this.show(location.hash.slice(1)));
  }

  show(id) {
    const chosen = this.parts.find((part) => part.id === id) ?? this.chosen ?? this.parts[0];
    for (const part of this.parts) {
      const selected = part === chosen;
      part.tab.setAttribute("aria-selected", selected);
      part.tab.tabIndex = selected ? 0 : -1;
      part.panel.hidden = !selected;
    }
    chosen.tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (chosen === this.chosen) return;
    this.chosen = chosen;
    history.replaceState(null, "", `#${chosen.id}`);
    this.onChange();
  }

  // Only the parts that `ids` names are offered: the others are no parts of what is shown.
  offer(ids) {
    for (const part of this.parts) part.tab.hidden = !ids.includes(part.id);
    if (this.chosen.tab.hidden) this.show(ids[0]);
  }

  move(event) {
    const offered = this.parts.filter((part) => !part.tab.hidden);
    const here = offered.indexOf(this.chosen);
    const last = offered.length - 1;
    const target = { ArrowRight: here === last ? 0 : here + 1, ArrowLeft: here ? here - 1 : last, Home: 0, End: last }[
      event.key
    ];
    if (target === undefined) return;
    event.preventDefault();
    this.show(offered[target].id);
    offered[target].tab.focus();
  }
}
