// Elements made in code, and numbers as they are shown.

export const $ = (id) => document.getElementById(id);

/** An element; `on…` are listeners, `data…` and `aria…` attributes, the rest properties. No markup is ever parsed. */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "scope" || name === "colspan" || name === "rowspan") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A share in [0, 1] in percent with one decimal; what rounds to nothing is said to be below it. */
export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value > 0 && value < 0.0005) return "<\u00a00.1\u00a0%";
  if (value < 1 && value > 0.9995) return ">\u00a099.9\u00a0%";
  return `${(100 * value).toFixed(1)}\u00a0%`; // a figure and its sign stay on one line
}

/** An interval of shares in percent. */
export function interval(pair) {
  return pair ? `${(100 * pair[0]).toFixed(1)}–${(100 * pair[1]).toFixed(1)}\u00a0%` : "–";
}

/** A small number with three digits that matter. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : value.toFixed(3);
}

/** `1 film`, `2 films`. */
export const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

/** A label as people write it. */
export const spoken = (label) => label.replaceAll("_", " ");
