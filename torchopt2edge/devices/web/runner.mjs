// The commands of torchopt2edge/runner/runner.py in a page: the same questions, the same answers.
// What is timed is set input, run, read output. What a page cannot know (CPU time, switches,
// memory, sensors) is -1 or "unavailable" here; the host fills in what it can see of the browser.

const ADAPTERS = { ort: "./ort.mjs", litert: "./litert.mjs" };
const SENSORS = { temperature_c: "unavailable" };
const FRONT_MS = 30e3;
const TRIES = 2; // more would outlast the host's patience with one round

/** Answers commands about one file: `answer(header, arrays)` gives [header, arrays or null]. */
export class Runner {
  #run = null;
  #prepared = null;
  #first = null;

  async answer(header, arrays) {
    switch (header.cmd) {
      case "open":
        return [await this.#open(header), null];
      case "call":
        return [{ event: "called" }, await this.#opened()(arrays)];
      case "load":
        return [await this.#load(arrays), null];
      case "round":
        return [await this.#round(header), null];
      case "sense":
        return [{ event: "sensed", sensors: SENSORS }, null];
      case "stop":
        return [{ event: "stopped", vm_hwm_bytes: -1 }, null];
      default:
        throw new Error(`the runner in the browser knows no command ${header.cmd}`);
    }
  }

  async #open({ backend, file, threads, options = {} }) {
    if (!Object.hasOwn(ADAPTERS, backend)) {
      throw new Error(`the browser has no runtime for ${backend}`);
    }
    if (threads > 1 && !crossOriginIsolated) {
      throw new Error("a page that is not isolated has one thread");
    }
    const bytes = await fetched(file); // outside of the clock: the network is not the runtime's
    const begin = performance.now();
    const runtime = await import(ADAPTERS[backend]);
    const receipt = await runtime.start(threads);
    const imported = performance.now();
    this.#run = await runtime.open(bytes, threads, options);
    const opened = performance.now();
    return {
      event: "opened",
      import_ms: imported - begin,
      load_ms: opened - imported,
      receipt: { ...receipt, ...surroundings() },
    };
  }

  async #load(arrays) {
    const run = this.#opened();
    this.#prepared = arrays;
    const begin = performance.now();
    const outputs = await run(arrays);
    const first_ms = performance.now() - begin;
    this.#first = outputs;
    return { event: "loaded", first_ms, finite: finite(outputs) };
  }

  async #round(command) {
    const run = this.#opened();
    if (this.#prepared === null) throw new Error("a round came before its load");
    const { begin, wall, samples, outputs } = await seenRound(run, this.#prepared, command);
    return {
      event: "round",
      latency_ns: samples,
      begin_ns: nanoseconds(begin), // of this page's clock: the host knows how it lies to others
      wall_ns: nanoseconds(wall),
      cpu_ns: -1,
      involuntary: -1,
      stable: same(this.#first, outputs),
      finite: finite(outputs),
      joules: null,
      vm_hwm_bytes: -1,
      sensors: SENSORS,
    };
  }

  #opened() {
    if (this.#run === null) throw new Error("no file was opened yet");
    return this.#run;
  }
}

/** Time a round that is in front from its begin to its end; what was hidden tells nothing. */
async function seenRound(run, prepared, command) {
  let patience = FRONT_MS;
  for (let left = TRIES; left > 0; left -= 1) {
    patience -= await inFront(patience);
    let hidden = false;
    const note = () => {
      hidden = true;
    };
    document.addEventListener("visibilitychange", note);
    const begin = performance.now();
    const [samples, outputs] = await timeRound(run, prepared, command);
    const wall = performance.now() - begin;
    await new Promise((resolve) => setTimeout(resolve)); // an event may wait behind our own work
    document.removeEventListener("visibilitychange", note);
    if (!hidden && document.visibilityState === "visible") return { begin, wall, samples, outputs };
  }
  throw new Error("the page went to the background in the middle of a round: keep it in front");
}

/** Wait until the page is in front; the milliseconds. Browsers slow down what nobody sees. */
async function inFront(patience) {
  const begin = performance.now();
  while (document.visibilityState !== "visible") {
    const left = begin + patience - performance.now();
    if (left <= 0) throw new Error("the page is in the background: bring it to the front");
    await new Promise((resolve) => {
      document.addEventListener("visibilitychange", resolve, { once: true });
      setTimeout(resolve, left);
    });
  }
  return performance.now() - begin;
}

async function timeRound(run, prepared, { min_samples, max_samples, seconds }) {
  const samples = [];
  const budget = seconds * 1e3;
  const start = performance.now();
  for (;;) {
    const begin = performance.now();
    const outputs = await run(prepared);
    const end = performance.now();
    samples.push(nanoseconds(end - begin));
    const enough = samples.length >= min_samples && end - start >= budget;
    if (enough || samples.length >= max_samples) return [samples, outputs];
  }
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`the file does not come: status ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

function surroundings() {
  return {
    runner: "web",
    user_agent: navigator.userAgent,
    cross_origin_isolated: crossOriginIsolated,
    timer_resolution_ns: timerResolution(),
  };
}

// The smallest step that the clock shows: browsers coarsen it, by how well a page is isolated.
function timerResolution() {
  let smallest = Infinity;
  let last = performance.now();
  for (let seen = 0; seen < 200; ) {
    const now = performance.now();
    if (now === last) continue;
    smallest = Math.min(smallest, now - last);
    last = now;
    seen += 1;
  }
  return nanoseconds(smallest);
}

function nanoseconds(milliseconds) {
  return Math.round(milliseconds * 1e6);
}

function isFloat({ data }) {
  return data.constructor.name.startsWith("Float");
}

function finite(outputs) {
  const floats = [...outputs.values()].filter(isFloat);
  return floats.every(({ data }) => data.every(Number.isFinite));
}

/** Whether outputs agree up to the order of float additions (threads may sum differently). */
function same(first, last) {
  if (first.size !== last.size) return false;
  return [...first].every(([name, array]) => last.has(name) && close(array, last.get(name)));
}

function close(first, last) {
  const [a, b] = [first.data, last.data];
  if (a.length !== b.length || first.shape.join() !== last.shape.join()) return false;
  if (!isFloat(first)) return a.every((value, at) => value === b[at]);
  const scale = a.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const near = (x, y) => Math.abs(x - y) <= 1e-5 * scale + 1e-4 * Math.abs(y);
  return a.every((value, at) => Object.is(value, b[at]) || near(value, b[at]));
}
