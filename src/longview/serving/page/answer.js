// The answer: labels beside films, and everything that is done with them.

import { referencePart } from "./boxes.js";
import { drawBar, MapCache } from "./colours.js";
import { $, count, figure, interval, make, percent, spoken } from "./dom.js";
import { saveJson, savePicture } from "./export.js";
import { LabelTable } from "./table.js";
import { FilmView, Pane } from "./viewer.js";

export class Answer {
  #panes = [];
  #films = [];
  #active = null;
  #label = null;
  #drawing = false;
  #maps = new MapCache();

  /** `told` = {wanted(label), status(text), awaits(model, label), problem(problem)}. */
  constructor(told) {
    this.told = told;
    this.table = new LabelTable($("table"), (label, focus) => this.pick(label, focus));
    $("before").addEventListener("click", () => this.step(-1));
    $("after").addEventListener("click", () => this.step(1));
    const filter = () => { this.table.filter($("filter").value, $("only").checked); this.#facts(); };
    $("filter").addEventListener("input", filter);
    $("only").addEventListener("change", filter);
    this.#tools();
    $("save-json").addEventListener("click", () => saveJson(this.answer, this.#films, { maps: $("with-maps").checked, method: this.method }));
    $("save-png").addEventListener("click", () => this.#picture());
    $("print").addEventListener("click", () => window.print());
  }

  #tools() {
    for (const name of ["show-map", "show-boxes"]) $(name).addEventListener("change", () => this.draw());
    for (const mode of document.getElementsByName("mode")) mode.addEventListener("change", () => this.draw());
    $("opacity").addEventListener("input", () => this.draw());
    $("level").addEventListener("input", () => this.#adjust((film) => { film.level = $("level").value / 100; }));
    $("width").addEventListener("input", () => this.#adjust((film) => { film.window = $("width").value / 100; }));
    $("invert").addEventListener("change", () => this.#adjust((film) => { film.invert = $("invert").checked; }));
    $("zoom-in").addEventListener("click", () => this.#adjust((film) => film.zoomBy(1.25)));
    $("zoom-out").addEventListener("click", () => this.#adjust((film) => film.zoomBy(0.8)));
    $("reset").addEventListener("click", () => { for (const film of this.#films) film.reset(); this.draw(); });
  }

  #adjust(change) {
    if (this.#active) change(this.#active);
    this.draw();
  }

  /**
   * Show an answer.
   *
   * @param {object} answer the server's
   * @param {object[]} films their pictures, in the order of the answer's views: {picture, short}
   * @param {string} method of the heat-maps
   */
  show(answer, films, method) {
    const again = this.answer && this.#label;
    this.close();
    Object.assign(this, { answer, method });
    for (const model of answer.models) {
      for (const entry of model.labels) entry.views ??= [];
    }
    this.#films = answer.views.map(({ index, width, height }, at) => new FilmView({
      index, width, height, picture: films[at].picture, name: `Film ${at + 1}, ${films[at].short}`,
    }));
    $("answer").hidden = false;
    this.#lay();
    this.#active = this.#films[0];
    this.table.show(answer, films.map(({ short }) => ({ short })));
    const first = this.table.order[0] ?? answer.models[0].labels[0].label;
    this.#legend();
    this.#provenance();
    this.pick(again && this.table.order.includes(again) ? again : first);
  }

  close() {
    for (const { pane } of this.#panes) pane.close();
    [this.#panes, this.#films, this.#label, this.#active] = [[], [], null, null];
    this.#maps.clear();
    this.answer = null;
    $("answer").hidden = true;
    $("panes").replaceChildren();
  }

  #lay() {
    const several = this.answer.models.length > 1;
    const sampled = this.answer.models.some(({ labels }) => labels.some(({ variance }) => variance !== null && variance !== undefined));
    document.querySelector(".split").classList.toggle("broad", several || sampled);
    $("panes").className = `panes${several ? " compared" : ""}${this.#films.length === 1 && !several ? " one" : ""}`;
    // one shape for all, so that films stand level
    const shape = Math.min(1.25, Math.max(0.75, Math.min(...this.#films.map(({ width, height }) => width / height))));
    for (const film of this.#films) {
      for (const model of this.answer.models) {
        const canvas = make("canvas", { tabIndex: 0, role: "application", "aria-roledescription": "film viewer", "aria-describedby": "pane-keys" });
        const frame = make("div", { className: "frame" }, canvas, make("p", { className: "waiting", hidden: true }));
        frame.style.aspectRatio = String(shape);
        $("panes").append(make("figure", { className: "pane" }, frame,
          make("figcaption", {}, make("strong", {}, film.name), several ? ` · ${model.model}` : "", make("span", { className: "seen" }))));
        const entry = { film, model, frame, canvas };
        entry.pane = new Pane(canvas, film, {
          active: (active) => { this.#active = active; this.draw(); },
          changed: () => this.draw(),
          boxed: (where, box) => this.#reference(where, box),
          key: (key) => this.#key(key),
          mode: () => document.querySelector("input[name=mode]:checked").value,
          scene: () => this.#scene(entry),
        });
        this.#panes.push(entry);
      }
    }
  }

  #entry(model, label = this.#label) { return model.labels.find((entry) => entry.label === label) ?? null; }

  #seen({ film, model }) { return this.#entry(model)?.views.find(({ index }) => index === film.index) ?? null; }

  #scene(entry) {
    const seen = this.#seen(entry);
    const uri = $("show-map").checked ? seen?.heatmap : null;
    return {
      map: uri ? this.#maps.get(uri, () => this.draw()) : null,
      opacity: $("opacity").value / 100,
      boxes: $("show-boxes").checked ? seen?.boxes ?? [] : [],
      reference: entry.film.references.get(this.#label) ?? null,
    };
  }

  /** Heat-maps, boxes and shares that came later. */
  merge(name, part) {
    const model = this.answer?.models.find((known) => known.model === name);
    const came = part?.models.find((known) => known.model === name);
    if (model && came) {
      for (const entry of came.labels) {
        const known = this.#entry(model, entry.label);
        if (!known) continue;
        known.views = entry.views.map((view) => ({ ...known.views.find(({ index }) => index === view.index), ...view }));
      }
      this.table.show(this.answer, this.table.views);
    }
    if (this.answer) this.#refresh();
  }

  /** Forget heat-maps and boxes: another method was chosen. */
  forget(method) {
    this.method = method;
    this.#maps.clear();
    for (const model of this.answer.models) {
      for (const entry of model.labels) entry.views = entry.views.map((view) => ({ ...view, heatmap: null, boxes: [], share: null }));
    }
    this.#provenance();
    this.#refresh();
  }

  pick(label, focus = false) {
    const changed = label !== this.#label;
    this.#label = label;
    this.table.pick(label, focus);
    if (changed) this.told.wanted(label);
    this.#refresh();
  }

  step(by) {
    const { order } = this.table;
    if (!order.length) return;
    const at = order.indexOf(this.#label);
    this.pick(order[at < 0 ? 0 : (at + by + order.length) % order.length]);
    this.told.status(`${spoken(this.#label)}: ${this.answer.models.map((model) => `${percent(this.#entry(model)?.probability)}`).join(" and ")}`);
  }

  #key(key) {
    const does = {
      h: () => { $("show-map").checked = !$("show-map").checked; },
      b: () => { $("show-boxes").checked = !$("show-boxes").checked; },
      PageDown: () => this.step(1), PageUp: () => this.step(-1),
    }[key.length === 1 ? key.toLowerCase() : key];
    does?.();
    return Boolean(does);
  }

  #reference(film, box) {
    if (box) film.references.set(this.#label, box);
    else film.references.delete(this.#label);
    if (box) $("references").open = true;
    this.#refresh();
    this.told.status(box ? `Reference box on ${film.name}: ${box.width} by ${box.height} pixels.` : `Reference box on ${film.name} removed.`);
  }

  #refresh() {
    this.#facts();
    this.#references();
    this.draw();
  }

  #facts() {
    if (!this.answer) return;
    $("picked").textContent = spoken(this.#label);
    const several = this.answer.models.length > 1;
    $("facts").replaceChildren(...this.answer.models.map((model) => {
      const entry = this.#entry(model);
      const name = several ? make("strong", {}, `${model.model}: `) : null;
      if (!entry) return make("p", {}, name, "does not know this label");
      return make("p", {}, name,
        make("strong", { className: "big" }, percent(entry.probability)),
        entry.interval ? ` (${interval(entry.interval)})` : "",
        make("span", { className: entry.positive ? "decision yes" : "decision" }, entry.positive ? ` ● above its threshold of ${percent(entry.threshold)}` : ` ○ below its threshold of ${percent(entry.threshold)}`),
        entry.standard_deviation === null || entry.standard_deviation === undefined ? "" : ` · SD ${(100 * entry.standard_deviation).toPrecision(2)} points · mutual information ${figure(entry.mutual_information)} nats`);
    }));
  }

  #references() {
    const holds = $("reference-list").contains(document.activeElement) ? [...$("reference-list").querySelectorAll("input, button")].indexOf(document.activeElement) : -1;
    $("reference-list").replaceChildren(...this.#films.map((film) => referencePart(
      film, film.references.get(this.#label) ?? null,
      this.answer.models.map((model) => ({ model: model.model, boxes: this.#seen({ film, model })?.boxes ?? [] })),
      (box) => this.#reference(film, box),
    )));
    $("reference-list").querySelectorAll("input, button")[holds]?.focus();
  }

  /** Draw everything anew, once per frame of the screen. */
  draw() {
    if (this.#drawing || !this.answer) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      if (!this.answer) return;
      for (const entry of this.#panes) this.#describe(entry);
      this.#show();
    });
  }

  #describe(entry) {
    const { film, model, frame, canvas, pane } = entry;
    const seen = this.#seen(entry);
    pane.draw();
    frame.classList.toggle("active", film === this.#active && this.#panes.length > 1);
    const waits = this.told.awaits(model.model, this.#label) && !seen?.heatmap;
    const note = frame.querySelector(".waiting");
    note.hidden = !$("show-map").checked || this.method === "none" || Boolean(seen?.heatmap);
    note.textContent = waits ? "Heat-map on its way…" : this.#entry(model) ? "No heat-map" : "This model does not know the label";
    const share = seen?.share === null || seen?.share === undefined ? "" : ` · ${percent(seen.share)} of the evidence`;
    frame.parentElement.querySelector(".seen").textContent = this.#films.length > 1 ? share : "";
    const boxes = seen?.boxes?.length ? `, ${count(seen.boxes.length, "predicted box").replace("boxs", "boxes")}` : "";
    canvas.setAttribute("aria-label", `${film.name}: ${seen?.heatmap ? "heat-map of " : ""}${spoken(this.#label)} by ${model.model}${boxes}`);
  }

  #show() {
    const film = this.#active;
    const values = { level: Math.round(100 * film.level), width: Math.round(100 * film.window) };
    for (const [name, value] of Object.entries(values)) {
      $(name).value = value;
      $(`${name}-value`).textContent = value;
    }
    $("invert").checked = film.invert;
    $("zoom").textContent = `${Math.round(100 * film.zoom)} %`;
    $("opacity-value").textContent = `${$("opacity").value} %`;
    $("scale").classList.toggle("off", !$("show-map").checked);
    drawBar($("colours").getContext("2d"), 0, 0, 256, 12, $("opacity").value / 100);
  }

  #picture() {
    const rows = this.answer.models.map((model) => ({
      model: model.model, entry: this.#entry(model),
      panes: this.#panes.filter((entry) => entry.model === model).map((entry) => ({ film: entry.film, scene: this.#scene(entry) })),
    }));
    savePicture(this.#label, rows, { opacity: $("opacity").value / 100, map: $("show-map").checked });
  }

  #legend() {
    const entries = this.answer.models.flatMap(({ labels }) => labels);
    const calibrated = this.answer.models.every((model) => model.calibrated);
    const words = ["The bar is the probability; the mark across it is the label's threshold."];
    if (entries.some((entry) => entry.interval)) words.push("The thin line is the central 95\u00a0% of the samples.");
    if (!calibrated) words.push("Not calibrated: read these probabilities as an order, not as frequencies.");
    if (entries.some((entry) => entry.variance !== null && entry.variance !== undefined)) words.push("Variance and entropy (in nats) are of the probability over samples: larger means less sure.");
    if (this.#films.length > 1 && this.answer.models.length === 1) words.push("Share: how much of the evidence each film gave, film 1 first.");
    if (this.answer.models.length > 1) words.push("Difference: second model less first, in percentage points.");
    $("legend").textContent = words.join(" ");
  }

  #provenance() {
    const facts = this.answer.models.map((model) => [model.model, `SHA-256 ${model.sha256.slice(0, 16)}…, ${model.calibrated ? "calibrated" : "not calibrated"}, ${model.duration_seconds.toFixed(2)} s`]);
    facts.push(["Heat-maps", this.method === "none" ? "none" : this.method], ["Read", new Date().toLocaleString()]);
    $("provenance").replaceChildren(...facts.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));
  }
}
