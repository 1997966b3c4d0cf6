// The server: what is asked, how progress is told, and what goes wrong in plain words.

let token = ""; // in memory only: never in an address, a cookie or a store

export const useToken = (given) => { token = given; };
export const hasToken = () => token !== "";

/** What went wrong: `message` in plain words, `detail` as the server says it, `status` 0 where it was not reached. */
export class Problem extends Error {
  constructor(status, detail = "", wait = 0) {
    super(plain(status));
    this.status = status;
    this.detail = detail;
    this.wait = wait; // seconds that the server asks us to wait
  }
}

function plain(status) {
  const words = {
    0: "The server cannot be reached. Check that it still runs and that the network is there, then try again.",
    400: "The server did not understand what was sent.",
    401: "This server asks for an access token.",
    403: "This server does not allow that.",
    404: "The server does not know what was asked for.",
    408: "Sending the films took too long. Try again.",
    413: "A film is larger than this server takes.",
    415: "A file is no film that can be read: give PNG, JPEG or DICOM.",
    422: "Something in the study or in the choices cannot be used.",
    429: "The server is busy with other studies. Try again in a moment.",
    503: "The server is starting or stopping. Try again in a moment.",
    504: "The server took too long for this study. Try fewer films or no uncertainty samples.",
  };
  return words[status] ?? (status >= 500 ? "Something failed on the server." : `The server refused (${status}).`);
}

function problemOf(status, headers, text) {
  let detail = "";
  try {
    const body = JSON.parse(text);
    detail = typeof body.detail === "string" ? body.detail : body.title ?? "";
  } catch { /* a proxy's page: the status says enough */ }
  return new Problem(status, detail, Number(headers("Retry-After")) || 0);
}

const authorised = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function asked(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: authorised(), credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0);
  }
  if (!response.ok) throw problemOf(response.status, (name) => response.headers.get(name), await response.text());
  return response;
}

/** The loaded models. */
export const models = async () => (await (await asked("v1/model")).json()).models;

/** A film as the server reads it, as PNG. */
export async function preview(file, signal) {
  const body = new FormData();
  body.append("file", file, "film"); // names of files may name patients: they stay here
  return (await asked("v1/preview", { method: "POST", body, signal })).blob();
}

/**
 * Have a study read.
 *
 * @param {{file: File, view: string}[]} views
 * @param {Object<string, string|number|boolean>} fields further form fields; null ones are left out
 * @param {{signal?: AbortSignal, progress?: (sent: number) => void}} how sent: share of the films that has gone
 */
export function study(views, fields, { signal, progress } = {}) {
  const body = new FormData();
  views.forEach(({ file }, index) => body.append("files", file, `view-${index + 1}`));
  if (views.some(({ view }) => view !== "unknown")) body.append("views", views.map(({ view }) => view).join(","));
  for (const [name, value] of Object.entries(fields)) if (value !== null) body.append(name, String(value));
  // fetch does not tell how much of a body has gone
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "v1/studies");
    for (const [name, value] of Object.entries(authorised())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => event.lengthComputable && progress?.(event.loaded / event.total));
    request.upload.addEventListener("load", () => progress?.(1));
    request.addEventListener("load", () => {
      if (request.status < 200 || request.status > 299) {
        reject(problemOf(request.status, (name) => request.getResponseHeader(name), request.responseText));
        return;
      }
      try { resolve(JSON.parse(request.responseText)); } catch { reject(new Problem(500, "The answer is no JSON.")); }
    });
    request.addEventListener("error", () => reject(new Problem(0)));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    if (signal?.aborted) { reject(new DOMException("stopped", "AbortError")); return; }
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}
