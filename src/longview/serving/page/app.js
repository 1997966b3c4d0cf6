// Page of a longview server. Nothing is kept: no cookie, no storage, no name of a file that leaves this browser.

import { Answer } from "./answer.js";
import { hasToken, models, Problem, study, useToken } from "./api.js";
import { $, count, make } from "./dom.js";
import { readFilm } from "./films.js";
import { MapQueue } from "./maps.js";
import { SHORT, StudyForm } from "./study.js";

let running = null; // what stops the request that is under way
let read = null; // what the answer shown rests on: {views, method, fingerprint}
let loaded = false;

const status = (text) => { $("status").textContent = text; };

function complain(problem) {
  if (problem.name === "AbortError") return;
  if (problem.status === 401) {
    askToken();
    return;
  }
  if (!(problem instanceof Problem)) console.error(problem);
  const words = problem instanceof Problem ? problem.message : "Something failed on this page.";
  $("alert").replaceChildren(make("div", { className: "problem" },
    make("p", {}, make("strong", {}, words), problem.detail ? ` ${problem.detail}` : ""),
    make("button", { type: "button", "aria-label": "Close this message", onclick: () => $("alert").replaceChildren() }, "×")));
  $("alert").scrollIntoView({ block: "nearest" });
}

function askToken() {
  $("token").hidden = false;
  if (hasToken()) $("alert").replaceChildren(make("div", { className: "problem" }, make("p", {}, "The server did not take this token.")));
  $("token-field").focus();
}

const form = new StudyForm({
  read: () => readStudy(),
  problem: complain,
  changed(cleared = false) {
    $("send").disabled = !form.ready || running !== null;
    if (cleared) {
      running?.abort();
      queue.stop();
      answer.close();
      read = null;
      status("");
      $("alert").replaceChildren();
    }
    $("stale").hidden = !read || read.fingerprint === form.fingerprint;
  },
  method() {
    if (!read) return;
    read.method = form.method;
    answer.forget(read.method);
    askMaps();
  },
});

const answer = new Answer({
  status,
  wanted: (label) => queue.want(label),
  awaits: (model, label) => queue.awaits(model, label),
});

const queue = new MapQueue(
  (model, labels, signal) => study(read.views, { models: model, labels: labels.join(","), method: read.method, heatmaps: true, boxes: true, samples: 0 }, { signal }),
  (model, part) => {
    if (!answer.answer) return;
    answer.merge(model, part);
    if (!model) status(`${read.told} All heat-maps are there.`);
  },
  (problem) => { answer.merge(null, null); complain(problem); },
);

function askMaps() {
  if (read.method === "none") { queue.stop(); answer.draw(); return; }
  queue.start(answer.answer.models.map(({ model, labels }) => ({ model, labels: labels.map(({ label }) => label) })));
}

function working(on) {
  $("send").disabled = on || !form.ready;
  $("cancel").hidden = !on;
  if (!on) form.progress(undefined);
}

async function readStudy() {
  queue.stop();
  const stop = new AbortController();
  running = stop;
  working(true);
  $("alert").replaceChildren();
  // what is changed while the models work does not reach this answer
  const asked = { views: form.films.map(({ file, view }) => ({ file, view })), films: [...form.films], method: form.method, fingerprint: form.fingerprint };
  try {
    status(form.progress(0));
    const found = await study(asked.views, { models: form.models.join(","), samples: form.samples, method: "none", heatmaps: false, boxes: false }, {
      signal: stop.signal,
      progress: (sent) => status(form.progress(sent < 1 ? sent : null)),
    });
    const films = await Promise.all(found.views.map((view, at) => filmOf(asked.films[at], view, stop.signal)));
    if (stop.signal.aborted) return;
    read = asked;
    answer.show(found, films, asked.method);
    const above = found.models[0].labels.filter(({ positive }) => positive).length;
    read.told = `Read ${count(films.length, "film")}: ${above} of ${count(found.models[0].labels.length, "label")} above threshold.`;
    status(read.told + (read.method === "none" ? "" : " Heat-maps are on their way."));
    $("stale").hidden = read.fingerprint === form.fingerprint;
    askMaps();
    $("answer").scrollIntoView({ block: "start" });
    $("answer").focus({ preventScroll: true });
  } catch (problem) {
    status(problem.name === "AbortError" ? "Stopped." : "The study was not read.");
    complain(problem);
  } finally {
    if (running === stop) running = null;
    working(running !== null);
  }
}

/** The film as the model saw it: where the browser opened it in another size (turned, cut), the server's own. */
async function filmOf({ file, film }, { view, width, height }, signal) {
  const same = film && film.width === width && film.height === height;
  const { picture } = same ? film : await readFilm(file, { server: true, signal });
  return { picture, short: SHORT[view] ?? view };
}

async function load() {
  try {
    const list = await models();
    loaded = true;
    $("token").hidden = true;
    $("alert").replaceChildren();
    form.offer(list);
    form.retry();
    $("send").disabled = !form.ready;
  } catch (problem) {
    complain(problem);
  }
}

$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token-field").value.trim();
  useToken(/^[\x21-\x7e]+$/.test(given) ? given : "-"); // what no header can carry is no token
  $("token-field").value = "";
  $("token").hidden = true;
  if (loaded) { form.retry(); status("The token is used from now on: send the study again."); }
  else load();
});
$("cancel").addEventListener("click", () => running?.abort());
$("again").addEventListener("click", () => readStudy());
addEventListener("beforeprint", () => answer.draw());
addEventListener("online", () => { if (!loaded) load(); });
load();
