// Elements from plain values. Text is only ever set as text: whatever a run is called or prints stays text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "style")
      for (const [property, set] of Object.entries(value)) node.style.setProperty(property, set);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const drawing = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export function table(caption, headings, rows) {
  const cells = rows.map((row) => row.map(cellOf));
  const isNumber = (column) => cells[0]?.[column]?.classList.contains("number");
  const head = headings.map((heading, column) =>
    element("th", { scope: "col", class: isNumber(column) && "number" }, heading),
  );
  return element(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    element(
      "table",
      {},
      element("caption", { class: "hidden" }, caption),
      element("thead", {}, element("tr", {}, head)),
      element(
        "tbody",
        {},
        cells.map((row) => element("tr", {}, row)),
      ),
    ),
  );
}

function cellOf(value) {
  if (value instanceof Node && (value.nodeName === "TD" || value.nodeName === "TH")) return value;
  return element("td", typeof value === "number" ? { class: "number" } : {}, value ?? "–");
}

// Label and value pairs, as a definition list.
export const facts = (pairs) =>
  element(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, value))),
  );

export const badge = (state) =>
  element("span", { class: "badge", "data-state": state ?? "none" }, state ?? "not started");

// Enough of a digest to tell it from others, in one piece; all of it where somebody points.
export const digest = (hex) =>
  hex ? element("code", { class: "digest", title: hex }, `${hex.slice(0, 16)}…`) : "–";

export const notice = (text) => element("p", { class: "notice" }, text);

export const section = (title, ...children) => element("section", {}, element("h2", {}, title), ...children);
