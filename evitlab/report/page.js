// The page without this file is whole and can be read; with it, tables sort and filter, and points answer.
"use strict";

// What the page was given ---------------------------------------------------------------------------------------------

const readJson = (id) => {
  const element = document.getElementById(id);
  return element === null ? null : JSON.parse(element.textContent);
};

const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
};

const make = (name, attributes = {}, text = "") => {
  const svg = ["svg", "g", "circle", "line", "path", "text"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
};

// Tables --------------------------------------------------------------------------------------------------------------

const FACTORS = { k: 1e3, M: 1e6, G: 1e9 };

/** What a cell is sorted by: its first line as a number where it is one, else as text; null where it is empty. */
const valueOf = (cell) => {
  const text = (cell.firstChild?.textContent ?? "").trim();
  const found = /^(-?[\d,]*\.?\d+)([kMG]?)(?=$|[\s%(])/.exec(text);
  if (text === "") return null;
  return found ? Number(found[1].replaceAll(",", "")) * (FACTORS[found[2]] ?? 1) : text;
};

const compare = (a, b) => {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return typeof a === "number" ? -1 : 1;
};

/** Rows in the order of a column; empty cells last, either way. Moved while they are out of the page, all at once. */
const sortRows = (table, column, descending) => {
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [valueOf(row.cells[column]), row]);
  const full = keyed.filter(([value]) => value !== null).sort(([a], [b]) => (descending ? compare(b, a) : compare(a, b)));
  const sorted = [...full, ...keyed.filter(([value]) => value === null)].map(([, row]) => row);
  body.remove();
  body.replaceChildren(...sorted);
  table.append(body);
};

const makeSortable = (table) => {
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => {
    const button = make("button", { type: "button", class: "sort" }, header.textContent);
    button.addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortRows(table, column, descending);
    });
    header.replaceChildren(button);
  });
};

/** A field above a table that leaves the rows which hold all its words; `onChange` hears how many. */
const makeFilter = (table, texts, onChange) => {
  const rows = Array.from(table.tBodies[0].rows);
  const label = make("label", { class: "filter" }, "Filter by variant or knob ");
  const field = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
  const count = make("span", { role: "status" });
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = rows.map((_, index) => words.every((word) => texts[index].includes(word)));
    rows.forEach((row, index) => { row.hidden = !shown[index]; });
    count.textContent = words.length ? ` ${shown.filter(Boolean).length} of ${rows.length}` : "";
    onChange(shown);
  });
  label.append(field, count);
  return label;
};

// The scatter ---------------------------------------------------------------------------------------------------------

const SIZE = { width: 900, height: 420, left: 70, right: 20, top: 16, bottom: 52 };

const niceTicks = (low, high) => {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) ticks.push(tick);
  return ticks.map((tick) => Number(tick.toPrecision(6)));
};

/** From the lowest to the highest value, and what intervals need beyond, at most as much again on each side. */
const rangeOf = (axis) => {
  const known = (values) => values.filter((value) => value !== null);
  const bounds = (values) => [Math.min(...values), Math.max(...values)];
  const [low, high] = bounds(known(axis.values));
  const [lowest, highest] = bounds(known([...axis.values, ...axis.low, ...axis.high]));
  const span = high - low || Math.abs(high) || 1;
  return [Math.max(lowest, low - span) - 0.06 * span, Math.min(highest, high + span) + 0.06 * span];
};

const show = (value) => (value === null ? "not measured" : Number(value.toPrecision(4)).toLocaleString("en"));

const describe = (data, index, axes) => {
  const lines = axes.map((axis) => {
    const interval = axis.low[index] === null ? "" : ` (${show(axis.low[index])} to ${show(axis.high[index])})`;
    return `${axis.label}: ${show(axis.values[index])}${interval}`;
  });
  return [data.names[index], data.notes[index], ...lines].filter(Boolean);
};

const drawFrame = (svg, x, y, place) => {
  const bottom = SIZE.height - SIZE.bottom;
  for (const tick of niceTicks(...x.range)) {
    svg.append(make("line", { class: "grid", x1: place.x(tick), x2: place.x(tick), y1: SIZE.top, y2: bottom }));
    svg.append(make("text", { x: place.x(tick), y: bottom + 18, "text-anchor": "middle" }, show(tick)));
  }
  for (const tick of niceTicks(...y.range)) {
    svg.append(make("line", { class: "grid", x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: place.y(tick), y2: place.y(tick) }));
    svg.append(make("text", { x: SIZE.left - 8, y: place.y(tick) + 4, "text-anchor": "end" }, show(tick)));
  }
  svg.append(make("text", { x: (SIZE.left + SIZE.width) / 2, y: SIZE.height - 10, "text-anchor": "middle" }, x.label));
  svg.append(make("text", { transform: `translate(16 ${bottom / 2}) rotate(-90)`, "text-anchor": "middle" }, y.label));
};

const clamp = (value, [low, high]) => Math.min(Math.max(value, low), high);

const drawPoint = (index, x, y, place) => {
  const ends = (axis, name) => [axis.low, axis.high].map((side) => place[name](clamp(side[index], axis.range)));
  const [cx, cy] = [place.x(x.values[index]), place.y(y.values[index])];
  const group = make("g", { class: "point", tabindex: "0", role: "img", "data-index": index });
  if (y.low[index] !== null) {
    const [y1, y2] = ends(y, "y");
    group.append(make("line", { x1: cx, x2: cx, y1, y2 }));
  }
  if (x.low[index] !== null) {
    const [x1, x2] = ends(x, "x");
    group.append(make("line", { y1: cy, y2: cy, x1, x2 }));
  }
  group.append(make("circle", { cx, cy, r: 5 }));
  return group;
};

const makeScatter = (data, rows) => {
  const box = make("div", { class: "scatter" });
  const tip = make("div", { role: "tooltip", class: "tip", hidden: "" });
  const svg = make("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "group", "aria-label": "Variants as points" });
  const points = new Map();
  const choose = (name, chosen) => {
    const select = make("select");
    data.axes.forEach((axis, index) => select.append(make("option", index === chosen ? { selected: "" } : {}, axis.label)));
    select.addEventListener("change", draw);
    const label = make("label", {}, `${name} `);
    label.append(select);
    return [label, select];
  };
  const [labelX, selectX] = choose("Across", data.x);
  const [labelY, selectY] = choose("Up", data.y);

  const light = (index, on) => {
    rows[index].classList.toggle("hot", on);
    points.get(index)?.classList.toggle("hot", on);
    tip.hidden = !on || !points.has(index);
    if (tip.hidden) return;
    const measured = data.axes.filter((axis) => axis.values[index] !== null);
    tip.replaceChildren(...describe(data, index, measured).map((line, number) => make(number ? "div" : "strong", {}, line)));
    const [around, point] = [box.getBoundingClientRect(), points.get(index).lastChild.getBoundingClientRect()];
    const left = Math.min(point.left - around.left + 14, around.width - tip.offsetWidth - 4);
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${point.top - around.top + 14}px`;
  };

  function draw() {
    const [x, y] = [selectX, selectY].map((select) => {
      const axis = data.axes[select.selectedIndex];
      return { ...axis, range: rangeOf(axis) };
    });
    const scale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);
    const place = {
      x: scale(x.range, SIZE.left, SIZE.width - SIZE.right),
      y: scale(y.range, SIZE.height - SIZE.bottom, SIZE.top),
    };
    svg.replaceChildren();
    points.clear();
    drawFrame(svg, x, y, place);
    data.names.forEach((_, index) => {
      if (x.values[index] === null || y.values[index] === null) return;
      const point = drawPoint(index, x, y, place);
      point.setAttribute("aria-label", describe(data, index, [x, y]).join(", "));
      point.toggleAttribute("hidden", rows[index].hidden);
      points.set(index, point);
    });
    svg.append(...points.values());
  }

  const indexOf = (event) => {
    const found = event.target.closest("[data-index]");
    return found === null ? null : Number(found.dataset.index);
  };
  const hear = (element, type, act) => element.addEventListener(type, (event) => {
    const index = indexOf(event);
    if (index !== null) act(index, event);
  });
  for (const element of [svg, rows[0].parentElement]) {
    hear(element, "pointerover", (index) => light(index, true));
    hear(element, "pointerout", (index) => light(index, false));
    hear(element, "focusin", (index) => light(index, true));
    hear(element, "focusout", (index) => light(index, false));
  }
  const goTo = (index) => rows[index].scrollIntoView({ block: "center" });
  hear(svg, "click", goTo);
  hear(svg, "keydown", (index, event) => { if (event.key === "Enter") goTo(index); });

  draw();
  const choices = make("p", { class: "choices" });
  choices.append(labelX, labelY, make("span", {}, "Point at one for its knobs; click to find its row."));
  box.append(choices, svg, tip);
  return { box, filter: (shown) => shown.forEach((on, index) => points.get(index)?.toggleAttribute("hidden", !on)) };
};

// Networks, unpacked when first asked for -----------------------------------------------------------------------------

const offerNetworks = () => {
  const packed = document.getElementById("networks");
  if (packed === null) return;
  let networks = null;
  document.addEventListener("toggle", async (event) => {
    const details = event.target;
    if (!details.open || details.dataset.variant === undefined || details.dataset.filled) return;
    details.dataset.filled = "yes";
    networks ??= unpack(packed.textContent.trim());
    for (const [tasks, config] of (await networks)[details.dataset.variant] ?? []) {
      details.lastElementChild.append(make("p", {}, `Network of ${tasks}:`), make("pre", {}, config));
    }
  }, true);
};

// -----------------------------------------------------------------------------------------------------------------------

document.querySelectorAll("table.sortable").forEach(makeSortable);
const table = document.querySelector("table.results");
const data = readJson("points");
if (table !== null && data !== null) {
  const rows = Array.from(table.tBodies[0].rows);
  rows.forEach((row, index) => { row.dataset.index = index; });
  const scatter = data.axes.length > 1 ? makeScatter(data, rows) : null;
  const texts = data.names.map((name, index) => `${name} ${data.notes[index]}`.toLowerCase());
  table.parentElement.before(makeFilter(table, texts, (shown) => scatter?.filter(shown)));
  if (scatter !== null) table.parentElement.before(scatter.box);
}
offerNetworks();
