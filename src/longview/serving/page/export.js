// The answer as JSON and as a picture. Neither names a file: names of films may name patients.

import { drawBar } from "./colours.js";
import { interval, percent, spoken } from "./dom.js";
import { drawFilm } from "./viewer.js";

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stamp = () => new Date().toISOString().slice(0, 19).replaceAll(":", "").replace("T", "-");
const slug = (label) => label.replaceAll(" ", "_").replace(/[^A-Za-z0-9_-]/g, "");

/** The server's answer with the reference boxes of this page and their use of models, as text. */
export function answerText(answer, films, { maps, method }) {
  const models = answer.models.map((model) => ({
    ...model,
    labels: model.labels.map((entry) => ({
      ...entry,
      views: entry.views.map((view) => ({ ...view, heatmap: maps ? view.heatmap : null })),
    })),
  }));
  const references = films.flatMap((film) => [...film.references].map(([label, box]) => ({ index: film.index, label, ...box })));
  return JSON.stringify({ ...answer, models, method, reference_boxes: references, read_at: new Date().toISOString() }, null, 1);
}

export function saveJson(answer, films, options) {
  save(new Blob([answerText(answer, films, options)], { type: "application/json" }), `longview-${stamp()}.json`);
}

/**
 * Save all films of one label as one picture: a row of films per model, under a heading, over a colour bar.
 *
 * @param {string} label
 * @param {{model: string, entry: object|null, panes: {film: object, scene: object}[]}[]} rows
 * @param {{opacity: number, map: boolean}} shown
 */
export async function savePicture(label, rows, shown) {
  const [side, gap, head, foot] = [800, 16, 96, 64];
  const wide = Math.max(...rows.map(({ panes }) => panes.length));
  const heights = rows.map(({ panes }) => Math.round(side * Math.max(...panes.map(({ film }) => Math.min(1.4, film.height / film.width)))));
  const canvas = document.createElement("canvas");
  canvas.width = wide * side + (wide + 1) * gap;
  canvas.height = head + rows.reduce((sum, _, index) => sum + heights[index] + 40 + gap, 0) + foot;
  const context = canvas.getContext("2d");
  context.fillStyle = "#101012";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const write = (text, x, y, size, colour = "#f0f0f0", weight = 400) => {
    context.font = `${weight} ${size}px system-ui, sans-serif`;
    context.fillStyle = colour;
    context.textBaseline = "alphabetic";
    context.fillText(text, x, y, canvas.width - x - gap);
  };
  write(spoken(label), gap, 44, 32, "#f0f0f0", 600);
  write("longview · research only, not a medical device", gap, 76, 18, "#f0b39a");
  let top = head;
  rows.forEach(({ model, entry, panes }, index) => {
    const told = entry ? ` · ${percent(entry.probability)}${entry.interval ? ` (${interval(entry.interval)})` : ""} · ${entry.positive ? "above" : "below"} its threshold ${percent(entry.threshold)}` : " · does not know this label";
    write(model + told, gap, top + 22, 20);
    panes.forEach(({ film, scene }, column) => {
      const part = document.createElement("canvas");
      [part.width, part.height] = [side, heights[index]];
      drawFilm(part.getContext("2d", { willReadFrequently: true }), film, scene, part.width, part.height, 1.6);
      const left = gap + column * (side + gap);
      context.drawImage(part, left, top + 34);
      context.font = "400 18px system-ui, sans-serif";
      context.fillStyle = "rgb(0 0 0 / .7)";
      context.fillRect(left, top + 34 + heights[index] - 32, context.measureText(film.name).width + 20, 32);
      write(film.name, left + 10, top + 34 + heights[index] - 10, 18);
    });
    top += heights[index] + 40 + gap;
  });
  if (shown.map) {
    write("weak", gap, top + 26, 18, "#d5d5da");
    drawBar(context, gap + 60, top + 10, 320, 20, shown.opacity);
    write("strong", gap + 392, top + 26, 18, "#d5d5da");
  }
  save(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")), `longview-${slug(label)}-${stamp()}.png`);
}
