// Heat-maps: 8-bit grey from the server to colours over a film.

// plasma (matplotlib, CC0) from 0.12 to 0.86: perceptually even, readable without colour vision, and without its
// darkest and palest ends, which a film's own black and white would swallow
const PLASMA = [
  [73, 3, 160], [92, 1, 166], [111, 0, 168], [129, 4, 167], [146, 15, 163], [161, 27, 155], [176, 41, 145],
  [189, 55, 134], [201, 68, 122], [212, 82, 112], [222, 95, 101], [230, 108, 92], [238, 123, 81], [245, 139, 71],
  [250, 155, 61], [253, 172, 51], [254, 190, 42],
];
const FIRST = 0.12; // below it nothing is drawn: weak evidence would veil the whole film
const LONGEST = 1024; // a map is smooth: more pixels would show nothing more

/** Red, green, blue and opacity (0 to 255) of each of 256 strengths, one after the other. */
export const INKS = (() => {
  const inks = new Uint8ClampedArray(1024);
  for (let level = 0; level < 256; level += 1) {
    const place = (level / 255) * (PLASMA.length - 1);
    const low = Math.min(Math.floor(place), PLASMA.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      const [from, to] = [PLASMA[low][channel], PLASMA[low + 1][channel]];
      inks[4 * level + channel] = from + (to - from) * (place - low);
    }
    inks[4 * level + 3] = 255 * Math.max(0, (level / 255 - FIRST) / (1 - FIRST));
  }
  return inks;
})();

/** A canvas that holds a map (a grey PNG as data URI) in colours whose opacity grows with its strength. */
export async function colouredMap(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const scale = Math.min(1, LONGEST / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) {
    const ink = 4 * data[at];
    data[at] = INKS[ink];
    data[at + 1] = INKS[ink + 1];
    data[at + 2] = INKS[ink + 2];
    data[at + 3] = INKS[ink + 3];
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** The colour bar, from 0 to 1, as it looks over mid grey at an opacity in [0, 1]. */
export function drawBar(context, x, y, width, height, opacity) {
  for (let column = 0; column < width; column += 1) {
    const ink = 4 * Math.round((255 * column) / Math.max(1, width - 1));
    context.fillStyle = "rgb(70 70 70)";
    context.fillRect(x + column, y, 1, height);
    context.fillStyle = `rgb(${INKS[ink]} ${INKS[ink + 1]} ${INKS[ink + 2]} / ${(INKS[ink + 3] / 255) * opacity})`;
    context.fillRect(x + column, y, 1, height);
  }
}

/** Maps in colours by their data URI; the oldest is forgotten first. */
export class MapCache {
  #kept = new Map();

  constructor(most = 12) { this.most = most; }

  /** The coloured map, or null while it is being made; `ready` is called then. */
  get(uri, ready) {
    const found = this.#kept.get(uri);
    if (found) {
      this.#kept.delete(uri);
      this.#kept.set(uri, found);
      return found.canvas;
    }
    const entry = { canvas: null };
    this.#kept.set(uri, entry);
    while (this.#kept.size > this.most) this.#kept.delete(this.#kept.keys().next().value);
    colouredMap(uri).then((canvas) => { entry.canvas = canvas; ready(); }, () => { /* no picture: drawn without it */ });
    return null;
  }

  clear() { this.#kept.clear(); }
}
