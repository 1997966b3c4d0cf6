// Films: from a file to a picture, by the browser where it shows just what the server reads, else by the server.

import { preview } from "./api.js";

const PNG = [0x89, 0x50, 0x4e, 0x47];
const JPEG = [0xff, 0xd8, 0xff];

const starts = (bytes, magic) => magic.every((byte, index) => bytes[index] === byte);

/** `dicom`, `png`, `png16`, `jpeg` or `other`, by its bytes. */
export async function kindOf(file) {
  const bytes = new Uint8Array(await file.slice(0, 132).arrayBuffer());
  if (String.fromCharCode(...bytes.slice(128, 132)) === "DICM") return "dicom";
  if (starts(bytes, PNG)) return bytes[24] === 16 ? "png16" : "png"; // IHDR's bit depth
  return starts(bytes, JPEG) ? "jpeg" : "other";
}

/** A film that can be drawn: `picture`, `width`, `height`. */
export async function readFilm(file, { server = false, signal } = {}) {
  const kind = await kindOf(file);
  let picture = null;
  if (!server && (kind === "png" || kind === "jpeg")) {
    try { picture = await createImageBitmap(file); } catch { /* the server says what is wrong with it */ }
  }
  picture ??= await createImageBitmap(await preview(file, signal));
  return { picture, width: picture.width, height: picture.height, kind };
}

/** A small picture of a film for its card. */
export function thumbnail(film, side = 128) {
  const canvas = document.createElement("canvas");
  const scale = side / Math.max(film.width, film.height);
  canvas.width = Math.max(1, Math.round(film.width * scale));
  canvas.height = Math.max(1, Math.round(film.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(film.picture, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}
