// Boxes {x, y, width, height} in pixels of the film: overlap, and the fields to read and type reference boxes.

import { figure, make } from "./dom.js";

/** Intersection over union of two boxes, in [0, 1]. */
export function iou(one, other) {
  const across = Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x);
  const down = Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y);
  if (across <= 0 || down <= 0) return 0;
  const shared = across * down;
  return shared / (one.width * one.height + other.width * other.height - shared);
}

/** The box between two points, in whole pixels inside a film; null where it would have no area. */
export function boxBetween(from, to, width, height) {
  const within = (value, most) => Math.min(most, Math.max(0, Math.round(value)));
  const [left, right] = [from.x, to.x].map((value) => within(value, width)).sort((a, b) => a - b);
  const [top, bottom] = [from.y, to.y].map((value) => within(value, height)).sort((a, b) => a - b);
  return right > left && bottom > top ? { x: left, y: top, width: right - left, height: bottom - top } : null;
}

const FIELDS = [["x", "Left"], ["y", "Top"], ["width", "Width"], ["height", "Height"]];

/**
 * The fields of one film's reference box, and its overlap with what each model predicts.
 *
 * @param {object} view the film: `name`, `width`, `height`
 * @param {object|null} box its reference box for the label in question
 * @param {{model: string, boxes: object[]}[]} predicted by model
 * @param {(box: object|null) => void} changed told of a typed or removed box
 */
export function referencePart(view, box, predicted, changed) {
  const inputs = FIELDS.map(([name, word]) => make("input", {
    type: "number", min: name === "width" || name === "height" ? 1 : 0, step: 1, name,
    max: name === "x" || name === "width" ? view.width : view.height, value: box ? String(box[name]) : "",
    "aria-label": `${word} of the reference box on ${view.name}, pixels`, onchange: () => typed(),
  }));
  const typed = () => {
    if (inputs.some((input) => input.value === "")) return;
    const [x, y, width, height] = inputs.map((input) => Number(input.value));
    changed(boxBetween({ x, y }, { x: x + width, y: y + height }, view.width, view.height));
  };
  return make("div", { className: "reference" },
    make("h3", {}, view.name),
    make("div", { className: "row" },
      inputs.map((input, index) => make("label", {}, `${FIELDS[index][1]} `, input)),
      make("button", { type: "button", disabled: !box, onclick: () => changed(null) }, "Remove box")),
    box ? overlaps(box, predicted, view) : null);
}

function overlaps(box, predicted, view) {
  const rows = predicted.flatMap(({ model, boxes }) => boxes.map((found, index) => make("tr", {},
    make("th", { scope: "row" }, predicted.length > 1 ? `${model}, box ${index + 1}` : `Box ${index + 1}`),
    make("td", {}, figure(found.score)),
    make("td", {}, `${Math.round(found.x)}, ${Math.round(found.y)}, ${Math.round(found.width)} × ${Math.round(found.height)}`),
    make("td", { className: "iou" }, iou(box, found).toFixed(2)))));
  if (!rows.length) return make("p", { className: "soft" }, "No predicted box on this film for this label: nothing to compare with.");
  return make("div", { className: "scroll" }, make("table", {},
    make("caption", { className: "hidden" }, `Overlap of the reference box on ${view.name} with each predicted box`),
    make("thead", {}, make("tr", {}, ["Predicted", "Score", "Left, top, size", "IoU"].map((word) => make("th", { scope: "col" }, word)))),
    make("tbody", {}, rows)));
}
