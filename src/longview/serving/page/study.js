// The study: its films and their view types, the choice of models, and what is sent.

import { $, count, make, percent } from "./dom.js";
import { readFilm, thumbnail } from "./films.js";

const VIEWS = [["PA", "PA (frontal)"], ["AP", "AP (frontal)"], ["lateral", "Lateral"], ["unknown", "Unknown"]];
export const SHORT = { PA: "PA", AP: "AP", lateral: "lateral", unknown: "view unknown" };

export class StudyForm {
  #films = [];
  #models = [];
  #number = 0;

  /** `told` = {changed(), read(), problem(problem, where)}. */
  constructor(told) {
    this.told = told;
    $("choose").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", () => { this.add($("files").files); $("files").value = ""; });
    $("drop").addEventListener("click", (event) => { if (!event.target.closest("button")) $("files").click(); });
    for (const name of ["model", "second", "samples"]) $(name).addEventListener("change", () => { this.#methods(); told.changed(); });
    $("method").addEventListener("change", () => told.method());
    $("send").addEventListener("click", () => told.read());
    $("clear").addEventListener("click", () => this.clear());
    this.#drops();
  }

  #drops() {
    let depth = 0; // of nested elements that were entered
    const carries = (event) => event.dataTransfer?.types.includes("Files");
    const mark = (on) => document.body.classList.toggle("dropping", on);
    addEventListener("dragenter", (event) => { if (carries(event)) { depth += 1; mark(true); } });
    addEventListener("dragleave", (event) => { if (carries(event)) { depth = Math.max(0, depth - 1); mark(depth > 0); } });
    addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
    addEventListener("drop", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      depth = 0;
      mark(false);
      this.add(event.dataTransfer.files);
    });
  }

  /** Fill the choices of models. */
  offer(models) {
    this.#models = models;
    const options = (list) => list.map(({ name }) => make("option", { value: name }, name));
    $("model").replaceChildren(...options(models));
    $("second").replaceChildren(make("option", { value: "" }, "nothing"), ...options(models));
    $("second-field").hidden = models.length < 2;
    this.#methods();
    this.#cards();
  }

  #methods() {
    const chosen = this.models;
    for (const option of $("second").options) option.disabled = option.value === $("model").value;
    if ($("second").value === $("model").value) $("second").value = "";
    const lists = this.#models.filter(({ name }) => chosen.includes(name)).map(({ methods }) => methods ?? []);
    const shared = (lists[0] ?? []).filter((method) => method !== "none" && lists.every((list) => list.includes(method)));
    const sampled = this.#models.some(({ name, samples }) => chosen.includes(name) && samples !== false);
    $("samples").disabled = !sampled;
    if (!sampled) $("samples").value = 0;
    $("samples-note").textContent = sampled
      ? "Samples: passes with dropout switched on, 0 for none; their spread shows how sure the model is of itself."
      : "Samples: the chosen model has no dropout to sample.";
    const before = $("method").value;
    $("method").replaceChildren(...shared.map((method) => make("option", { value: method }, method)), make("option", { value: "none" }, "no heat-maps"));
    if ([...$("method").options].some(({ value }) => value === before)) $("method").value = before;
  }

  #cards() {
    $("about-models").hidden = this.#models.length === 0;
    $("cards").replaceChildren(...this.#models.map((model) => make("section", { className: "model" },
      make("h3", {}, model.name),
      make("dl", {}, [
        ["Labels", model.labels.map((label) => label.replaceAll("_", " ")).join(", ")],
        ["Reads", `${model.level === "study" ? "all films of a study together" : "each film, then the mean over films"}, at ${model.image_size} × ${model.image_size} pixels`],
        ["Calibrated", model.calibration ? "yes: probabilities and thresholds were fitted on known films" : "no: read probabilities as an order, not as frequencies"],
        ["SHA-256", model.sha256], ["Version", model.version],
      ].flatMap(([term, text]) => (text ? [make("dt", {}, term), make("dd", {}, String(text))] : []))),
      model.card ? make("details", {}, make("summary", {}, "Model card"), make("pre", {}, model.card)) : null)));
  }

  async add(files) {
    const added = [...files].map((file) => {
      this.#number += 1;
      return { id: this.#number, file, view: guess(file.name), film: null, problem: null, stop: new AbortController() };
    });
    this.#films.push(...added);
    this.#list();
    this.told.changed();
    await Promise.all(added.map((entry) => this.#read(entry)));
  }

  async #read(entry) {
    try {
      entry.problem = null;
      entry.film = await readFilm(entry.file, { signal: entry.stop.signal });
    } catch (problem) {
      if (problem.name === "AbortError") return;
      entry.problem = problem;
      if (problem.status === 401) this.told.problem(problem);
    }
    this.#list();
    this.told.changed();
  }

  /** Try films again that could not be shown for want of a token. */
  retry() {
    for (const entry of this.#films) if (entry.problem) this.#read(entry);
  }

  remove(entry) {
    entry.stop.abort();
    const at = this.#films.indexOf(entry);
    this.#films.splice(at, 1);
    this.#list();
    this.told.changed();
    ($("views").querySelectorAll(".remove")[Math.min(at, this.#films.length - 1)] ?? $("choose")).focus();
  }

  clear() {
    for (const entry of this.#films) entry.stop.abort();
    this.#films = [];
    this.#list();
    this.told.changed(true);
    $("choose").focus();
  }

  #list() {
    document.body.classList.toggle("filled", this.#films.length > 0);
    $("clear").hidden = this.#films.length === 0;
    $("choose").textContent = this.#films.length ? "Add films" : "Choose films";
    $("views").replaceChildren(...this.#films.map((entry, index) => this.#card(entry, index)));
  }

  #card(entry, index) {
    const select = make("select", { "aria-label": `View type of film ${index + 1}`, onchange: (event) => { entry.view = event.target.value; this.told.changed(); } },
      VIEWS.map(([value, text]) => make("option", { value, selected: value === entry.view }, text)));
    const state = entry.problem ? make("p", { className: "wrong" }, `${entry.problem.message} ${entry.problem.detail ?? ""}`)
      : make("p", { className: "soft small" }, entry.film ? `${entry.film.width} × ${entry.film.height}` : "Opening…");
    return make("li", {},
      make("span", { className: "thumb" }, entry.film ? thumbnail(entry.film) : null),
      make("div", {}, make("p", { className: "name", title: entry.file.name }, `${index + 1}. ${entry.file.name}`), select, state),
      make("button", { type: "button", className: "remove", "aria-label": `Remove film ${index + 1}`, onclick: () => this.remove(entry) }, "×"));
  }

  /** Names of the chosen models, the main one first. */
  get models() { return [$("model").value, $("second").value].filter((name, index, all) => name && all.indexOf(name) === index); }
  get method() { return $("method").value || "none"; }
  get samples() { return Math.max(0, Math.round(Number($("samples").value) || 0)); }
  get films() { return this.#films; }
  get ready() { return this.#films.length > 0 && this.models.length > 0 && this.#films.every(({ problem }) => !problem); }
  /** What an answer rests on, to tell whether it still holds. */
  get fingerprint() { return JSON.stringify([this.#films.map(({ id, view }) => [id, view]), this.models, this.samples]); }

  /** Tell of sending: a share in [0, 1], or null while the models work. */
  progress(sent) {
    $("progress").hidden = sent === undefined;
    if (sent === null || sent === undefined) $("bar").removeAttribute("value");
    else $("bar").value = sent;
    if (sent === undefined) return "";
    return sent === null ? `The films are there; ${count(this.models.length, "model")} at work…` : `Sending ${count(this.#films.length, "film")}: ${percent(sent)}`;
  }
}

/** A view type that a file's name tells of, to be checked by who reads it. */
function guess(name) {
  const words = name.toLowerCase().split(/[^a-z]+/);
  if (words.some((word) => ["lateral", "lat", "ll"].includes(word))) return "lateral";
  if (words.includes("pa")) return "PA";
  return words.includes("ap") ? "AP" : "unknown";
}
