// One film on a canvas under one model's heat-map, with window and level, zoom, boxes, and a box that can be drawn.

import { boxBetween, iou } from "./boxes.js";

export const PREDICTED = "#3fe0f0";
export const REFERENCE = "#ffffff";
const MOST = 16; // times the size that fits

/** What all panes of one film share: where it is looked at, how bright it is, and its reference boxes by label. */
export class FilmView {
  constructor({ index, name, picture, width, height }) {
    Object.assign(this, { index, name, picture, width, height, references: new Map() });
    this.reset();
  }

  reset() {
    Object.assign(this, { zoom: 1, x: this.width / 2, y: this.height / 2, level: 0.5, window: 1, invert: false });
  }

  move(dx, dy) {
    this.x = Math.min(this.width, Math.max(0, this.x + dx));
    this.y = Math.min(this.height, Math.max(0, this.y + dy));
  }

  /** Zoom by a factor; the point (x, y) of the film stays where it is. */
  zoomBy(factor, x = this.x, y = this.y) {
    const zoom = Math.min(MOST, Math.max(1, this.zoom * factor));
    const share = 1 - this.zoom / zoom;
    this.zoom = zoom;
    if (zoom === 1) [this.x, this.y] = [this.width / 2, this.height / 2];
    else this.move((x - this.x) * share, (y - this.y) * share);
  }

  windowBy(width, level) {
    this.window = Math.min(2, Math.max(0.02, this.window + width));
    this.level = Math.min(1, Math.max(0, this.level + level));
  }
}

/** Draw a film, its map and its boxes. `scene` is {map: canvas|null, opacity, boxes, reference, draft}. */
export function drawFilm(context, film, scene, width, height, unit = 1) {
  const scale = Math.min(width / film.width, height / film.height) * film.zoom;
  const [left, top] = [width / 2 - film.x * scale, height / 2 - film.y * scale];
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.setTransform(scale, 0, 0, scale, left, top);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(film.picture, 0, 0, film.width, film.height);
  windowed(context, film, left, top, scale, width, height);
  if (scene.map) {
    context.globalAlpha = scene.opacity;
    context.drawImage(scene.map, 0, 0, film.width, film.height);
    context.globalAlpha = 1;
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  const place = (box) => [left + box.x * scale, top + box.y * scale, box.width * scale, box.height * scale];
  for (const [index, box] of scene.boxes.entries()) {
    const overlap = scene.reference ? ` · IoU ${iou(scene.reference, box).toFixed(2)}` : "";
    outline(context, place(box), PREDICTED, `${index + 1}${overlap}`, unit, []);
  }
  const reference = scene.draft ?? scene.reference;
  if (reference) outline(context, place(reference), REFERENCE, "reference", unit, [6 * unit, 4 * unit], true);
}

function windowed(context, { level, window, invert, width: across, height: down }, left, top, scale, width, height) {
  if (level === 0.5 && window === 1 && !invert) return;
  const table = new Uint8ClampedArray(256);
  for (let value = 0; value < 256; value += 1) {
    const shown = 255 * ((value / 255 - level) / window + 0.5);
    table[value] = invert ? 255 - Math.min(255, Math.max(0, shown)) : shown;
  }
  const [x, y] = [Math.max(0, Math.floor(left)), Math.max(0, Math.floor(top))];
  const [right, bottom] = [Math.min(width, Math.ceil(left + across * scale)), Math.min(height, Math.ceil(top + down * scale))];
  if (right <= x || bottom <= y) return;
  const pixels = context.getImageData(x, y, right - x, bottom - y);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) {
    data[at] = table[data[at]];
    data[at + 1] = table[data[at + 1]];
    data[at + 2] = table[data[at + 2]];
  }
  context.putImageData(pixels, x, y);
}

function outline(context, [x, y, width, height], colour, text, unit, dash, below = false) {
  context.lineWidth = 4 * unit;
  context.setLineDash([]);
  context.strokeStyle = "rgb(0 0 0 / .55)"; // seen on white bone as well
  context.strokeRect(x, y, width, height);
  context.lineWidth = 2 * unit;
  context.setLineDash(dash);
  context.strokeStyle = colour;
  context.strokeRect(x, y, width, height);
  context.setLineDash([]);
  context.font = `600 ${12 * unit}px system-ui, sans-serif`;
  const wide = context.measureText(text).width + 8 * unit;
  const tall = 17 * unit;
  const across = Math.max(0, Math.min(x - unit, context.canvas.width - wide));
  const down = below ? Math.min(y + height + unit, context.canvas.height - tall) : Math.max(0, y - tall);
  context.fillStyle = "rgb(0 0 0 / .72)";
  context.fillRect(across, down, wide, tall);
  context.fillStyle = colour;
  context.textBaseline = "middle";
  context.fillText(text, across + 4 * unit, down + tall / 2);
}

/** A canvas that shows a film. `told` = {active, changed, boxed, key, mode(), scene()}. */
export class Pane {
  #draft = null;
  #drag = null;
  #touches = new Map();

  constructor(canvas, film, told) {
    Object.assign(this, { canvas, film, told });
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.observer = new ResizeObserver(() => { this.#fit(); this.draw(); });
    this.observer.observe(canvas);
    const on = (name, does, options) => canvas.addEventListener(name, does, options);
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#moved(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", (event) => { this.#draft = null; this.#up(event); });
    on("contextmenu", (event) => event.preventDefault());
    on("focus", () => told.active(film));
    on("dblclick", () => { film.zoomBy(0); told.changed(); });
    on("keydown", (event) => this.#key(event));
    on("wheel", (event) => this.#wheel(event), { passive: false });
  }

  close() { this.observer.disconnect(); }

  draw() {
    const { width, height } = this.canvas;
    if (!width || !height) return;
    drawFilm(this.context, this.film, { ...this.told.scene(), draft: this.#draft }, width, height, this.unit);
    // a finger scrolls the page past a film that is not zoomed in
    this.canvas.style.touchAction = this.told.mode() === "pan" && this.film.zoom === 1 ? "pan-y" : "none";
  }

  get unit() { return this.canvas.width / Math.max(1, this.canvas.clientWidth); }

  #fit() {
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
  }

  /** Pixels of the film per pixel of the page. */
  get #step() {
    const { canvas, film } = this;
    return 1 / (Math.min(canvas.clientWidth / film.width, canvas.clientHeight / film.height) * film.zoom);
  }

  #at(event) {
    const frame = this.canvas.getBoundingClientRect();
    return {
      x: this.film.x + (event.clientX - frame.left - frame.width / 2) * this.#step,
      y: this.film.y + (event.clientY - frame.top - frame.height / 2) * this.#step,
    };
  }

  #down(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.#touches.set(event.pointerId, event);
    const mode = event.button === 2 ? "window" : event.button === 1 ? "pan" : this.told.mode();
    this.#drag = { mode, from: this.#at(event), x: event.clientX, y: event.clientY };
    if (event.button === 1) event.preventDefault();
  }

  #moved(event) {
    const drag = this.#drag;
    if (!drag || !this.#touches.has(event.pointerId)) return;
    if (this.#touches.size === 2) { this.#pinch(event); return; }
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    [drag.x, drag.y] = [event.clientX, event.clientY];
    if (drag.mode === "pan") this.film.move(-dx * this.#step, -dy * this.#step);
    else if (drag.mode === "window") this.film.windowBy(dx / 300, dy / 500);
    else this.#draft = boxBetween(drag.from, this.#at(event), this.film.width, this.film.height);
    this.told.changed();
  }

  #pinch(event) {
    const spread = () => {
      const [one, other] = [...this.#touches.values()];
      return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    };
    const before = spread();
    this.#touches.set(event.pointerId, event);
    this.#draft = null;
    this.#drag.mode = "pan";
    if (before > 0) this.film.zoomBy(spread() / before);
    this.told.changed();
  }

  #up(event) {
    this.#touches.delete(event.pointerId);
    const box = this.#draft;
    [this.#drag, this.#draft] = [null, null];
    if (box && box.width > 2 && box.height > 2) this.told.boxed(this.film, box);
    this.told.changed();
  }

  #wheel(event) {
    // the page scrolls past a film that was not chosen
    if (!event.ctrlKey && document.activeElement !== this.canvas) return;
    event.preventDefault();
    const at = this.#at(event);
    this.film.zoomBy(Math.exp(-event.deltaY / 400), at.x, at.y);
    this.told.changed();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { film } = this;
    const far = 40 * this.#step;
    const does = {
      "+": () => film.zoomBy(1.25), "=": () => film.zoomBy(1.25), "-": () => film.zoomBy(0.8), 0: () => film.zoomBy(0),
      ArrowLeft: () => film.move(-far, 0), ArrowRight: () => film.move(far, 0),
      ArrowUp: () => film.move(0, -far), ArrowDown: () => film.move(0, far),
    }[event.key];
    if (does) does();
    else if (!this.told.key(event.key)) return;
    event.preventDefault();
    this.told.changed();
  }
}
