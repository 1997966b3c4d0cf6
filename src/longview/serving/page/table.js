// The table of labels: sorted, filtered, and walked through by keyboard.

import { figure, interval, make, percent, spoken } from "./dom.js";

/** One row per label of all models: {label, by: [entry or null per model]}, most probable first. */
export function rowsOf(answer) {
  const rows = new Map();
  answer.models.forEach((model, index) => {
    for (const entry of model.labels) {
      if (!rows.has(entry.label)) rows.set(entry.label, { label: entry.label, by: answer.models.map(() => null) });
      rows.get(entry.label).by[index] = entry;
    }
  });
  return [...rows.values()];
}

const threshold = (value) => (value >= 0.1 ? `${Math.round(100 * value)}\u00a0%` : percent(value));

const decision = (entry, short) => make("span", { className: entry.positive ? "decision yes" : "decision" },
  make("span", { "aria-hidden": "true" }, entry.positive ? "● " : "○ "),
  short ? make("span", { "aria-hidden": "true" }, entry.positive ? "≥" : "<") : null,
  make("span", { className: short ? "hidden" : "" }, entry.positive ? "above" : "below"),
  make("span", { className: "soft" }, ` ${threshold(entry.threshold)}`));

function bar(entry) {
  const track = make("span", { className: entry.positive ? "track yes" : "track", "aria-hidden": "true" });
  const part = (name, from, to) => {
    const piece = make("span", { className: name });
    piece.style.left = `${100 * from}%`;
    if (to !== undefined) piece.style.width = `${100 * Math.max(0, to - from)}%`;
    track.append(piece);
  };
  part("fill", 0, entry.probability ?? 0);
  if (entry.interval) part("whisker", entry.interval[0], entry.interval[1]);
  part("tick", entry.threshold);
  return track;
}

function shares(entry, views) {
  if (!entry.views.some(({ share }) => share !== null && share !== undefined)) return "–";
  const parts = views.map((_, at) => entry.views.find(({ index }) => index === at)?.share)
    .map((share) => (share === null || share === undefined ? "–" : Math.round(100 * share)));
  return make("span", { title: views.map(({ short }, index) => `${short} ${parts[index]} %`).join(", ") }, `${parts.join("\u00a0/\u00a0")}`);
}

/** Columns: {head, of (row) => what it is sorted by, cell (row) => what is shown}. */
function columnsOf(answer, views) {
  const columns = [{ key: "label", head: "Label", of: (row) => spoken(row.label) }];
  const several = answer.models.length > 1;
  const short = several || answer.models.some(({ labels }) => labels.some(({ interval: known }) => known)); // many columns
  const some = (name) => answer.models.some((model) => model.labels.some((entry) => entry[name] !== null && entry[name] !== undefined));
  answer.models.forEach((model, index) => {
    const add = (key, head, of, cell) => columns.push({
      key: `${key}-${index}`, group: several ? model.model : null, index, head,
      of: (row) => (row.by[index] ? of(row.by[index]) : null),
      cell: (row) => (row.by[index] ? cell(row.by[index]) : "–"),
    });
    add("probability", "Probability", (entry) => entry.probability, (entry) => [bar(entry), make("span", { className: "value" }, percent(entry.probability))]);
    if (some("interval") && !several) add("interval", "95 % interval", (entry) => entry.interval && entry.interval[1] - entry.interval[0], (entry) => interval(entry.interval));
    add("decision", "Threshold", (entry) => (entry.probability === null ? null : entry.probability - entry.threshold), (entry) => decision(entry, short));
    for (const [name, head] of [["variance", "Variance"], ["predictive_entropy", "Entropy"]]) {
      if (some(name) && !(several && name !== "variance")) add(name, head, (entry) => entry[name], (entry) => figure(entry[name]));
    }
    if (views.length > 1 && !several) add("share", "Share, %", (entry) => entry.views.find(({ index }) => index === 0)?.share ?? null, (entry) => shares(entry, views));
  });
  if (several) {
    const known = (row) => row.by.every((entry) => entry && entry.probability !== null);
    const gap = (row) => (known(row) ? row.by[1].probability - row.by[0].probability : null);
    columns.push({
      key: "difference", group: "", head: "Difference", of: gap,
      cell: (row) => (gap(row) === null ? "–" : `${gap(row) < 0 ? "−" : "+"}${(100 * Math.abs(gap(row))).toFixed(1)}`),
    });
  }
  return columns;
}

export class LabelTable {
  #rows = [];
  #sort = { key: "probability-0", rising: false };
  #picked = null;

  constructor(place, picked) { Object.assign(this, { place, onPick: picked }); }

  /** Show an answer; `views` are [{short}]. The way it was sorted stays, where that column is still there. */
  show(answer, views) {
    Object.assign(this, { answer, views });
    this.#rows = rowsOf(answer);
    this.columns = columnsOf(answer, views);
    if (!this.columns.some(({ key }) => key === this.#sort.key)) this.#sort = { key: "probability-0", rising: false };
    this.#build();
  }

  /** Labels in the order shown, without those that are filtered out. */
  get order() { return this.#shown().map(({ label }) => label); }

  filter(text, only) {
    Object.assign(this, { text: text.trim().toLowerCase(), only });
    this.#build();
  }

  pick(label, focus = false) {
    this.#picked = label;
    const buttons = [...this.place.querySelectorAll("tbody button")];
    for (const button of buttons) this.#mark(button, button.dataset.label === label);
    const found = buttons.find((button) => button.dataset.label === label);
    if (!found && buttons.length) buttons[0].tabIndex = 0;
    if (focus) found?.focus();
    found?.closest("tr").scrollIntoView({ block: "nearest" });
  }

  #mark(button, on) {
    button.tabIndex = on ? 0 : -1;
    button.setAttribute("aria-pressed", String(on));
    button.closest("tr").classList.toggle("on", on);
  }

  #shown() {
    const column = this.columns.find(({ key }) => key === this.#sort.key);
    const sign = this.#sort.rising ? 1 : -1;
    const kept = this.#rows.filter((row) => (!this.text || spoken(row.label).toLowerCase().includes(this.text))
      && (!this.only || row.by.some((entry) => entry?.positive)));
    return kept.map((row) => [column.of(row), row]).sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
    }).map(([, row]) => row);
  }

  #build() {
    if (!this.answer) return;
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset : null;
    const table = make("table", { className: "label-table" },
      make("caption", { className: "hidden" }, "Labels and how probable each is. Arrow keys walk through them; column headings sort."),
      make("thead", {}, this.#groups(), make("tr", {}, this.columns.map((column) => this.#head(column)))),
      make("tbody", { onkeydown: (event) => this.#key(event) }, this.#shown().map((row) => this.#row(row))));
    this.place.replaceChildren(table);
    if (!table.tBodies[0].rows.length) table.tBodies[0].append(make("tr", {}, make("td", { colspan: this.columns.length, className: "soft" }, "No label fits.")));
    this.pick(this.#picked);
    if (focused?.key) this.place.querySelector(`th button[data-key="${focused.key}"]`)?.focus();
    else if (focused?.label) [...this.place.querySelectorAll("tbody button")].find((button) => button.dataset.label === focused.label)?.focus();
  }

  #groups() {
    if (this.answer.models.length < 2) return null;
    const row = make("tr", { className: "groups" }, make("td"));
    this.answer.models.forEach((model, index) => row.append(make("th", { scope: "colgroup", colspan: this.columns.filter((column) => column.index === index).length }, model.model)));
    row.append(make("td"));
    return row;
  }

  #head({ key, head, group, index }) {
    const sorted = key === this.#sort.key;
    const button = make("button", { type: "button", "data-key": key, onclick: () => {
      this.#sort = { key, rising: sorted ? !this.#sort.rising : key === "label" };
      this.#build();
    } }, head);
    const first = group !== null && group !== undefined && !(this.columns.find((column) => column.index === index) ?? {}).key?.localeCompare(key);
    return make("th", { scope: "col", className: first ? "first" : "", "aria-sort": sorted ? (this.#sort.rising ? "ascending" : "descending") : null }, button);
  }

  #row(row) {
    const positive = row.by.some((entry) => entry?.positive);
    const button = make("button", { type: "button", "data-label": row.label, tabIndex: -1 }, spoken(row.label));
    return make("tr", { className: positive ? "positive" : "", onclick: () => this.onPick(row.label) },
      make("th", { scope: "row" }, button),
      this.columns.slice(1).map(({ key, cell }) => make("td", { className: key.split("-")[0] }, cell(row))));
  }

  #key(event) {
    const order = this.order;
    const at = order.indexOf(event.target.dataset.label);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: order.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    this.onPick(order[Math.min(order.length - 1, Math.max(0, to))], true);
  }
}
