// Heat-maps and boxes are asked for after the table is there, a few labels at a time, the picked label first.

const TOGETHER = 6; // labels of one request: one pass of the encoder serves them all
const TRIES = 6; // of a request that a busy server turns away

const pause = (seconds, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

export class MapQueue {
  #stop = null;
  #waiting = [];

  /**
   * @param {(model: string, labels: string[], signal: AbortSignal) => Promise<object>} ask one model's answer
   * @param {(model: string, answer: object) => void} arrived told of each
   * @param {(problem: Error) => void} failed told of what ended it
   */
  constructor(ask, arrived, failed) { Object.assign(this, { ask, arrived, failed }); }

  get busy() { return this.#stop !== null; }

  /** Whether a label's map of a model is still to come. */
  awaits(model, label) {
    return this.busy && this.#waiting.some((entry) => entry.model === model && entry.labels.has(label));
  }

  /** Ask for the maps of all labels (in this order) of all models: [{model, labels}]. */
  async start(wanted) {
    this.stop();
    const stop = new AbortController();
    this.#stop = stop;
    this.#waiting = wanted.map(({ model, labels }) => ({ model, labels: new Set(labels) }));
    try {
      for (let next = this.#next(); next && !stop.signal.aborted; next = this.#next()) {
        const answer = await this.#asked(next, stop.signal);
        if (stop.signal.aborted) return;
        const entry = this.#waiting.find(({ model }) => model === next.model);
        for (const label of next.labels) entry.labels.delete(label);
        this.arrived(next.model, answer);
      }
    } catch (problem) {
      if (!stop.signal.aborted) {
        this.#stop = null;
        this.failed(problem);
      }
      return;
    } finally {
      if (this.#stop === stop) this.#stop = null;
    }
    if (!stop.signal.aborted) this.arrived(null, null);
  }

  /** Take this label next. */
  want(label) {
    for (const entry of this.#waiting) {
      if (entry.labels.has(label)) entry.labels = new Set([label, ...entry.labels]);
    }
    this.wanted = label;
  }

  stop() {
    this.#stop?.abort();
    this.#stop = null;
    this.#waiting = [];
  }

  #next() {
    const open = this.#waiting.filter(({ labels }) => labels.size);
    if (!open.length) return null;
    // the picked label of every model first, then whoever has most left: models stay level
    open.sort((a, b) => b.labels.has(this.wanted) - a.labels.has(this.wanted) || b.labels.size - a.labels.size);
    return { model: open[0].model, labels: [...open[0].labels].slice(0, TOGETHER) };
  }

  async #asked({ model, labels }, signal) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.ask(model, labels, signal);
      } catch (problem) {
        if (![429, 503].includes(problem.status) || attempt === TRIES || signal.aborted) throw problem;
        await pause(problem.wait || attempt, signal);
        if (signal.aborted) throw problem;
      }
    }
  }
}
