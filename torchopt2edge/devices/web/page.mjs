// The page's end of a job: asks the host for a frame, answers it, asks again.

import { decode, encode } from "./frames.mjs";
import { Runner } from "./runner.mjs";

const state = document.getElementById("state");

/** Tell the host's log; a host that is gone hears nothing. */
function log(...words) {
  const body = words.map((word) => word?.stack ?? String(word)).join(" ");
  fetch("./log", { method: "POST", body, keepalive: body.length < 1e4 }).catch(() => {});
}

function listen() {
  for (const level of ["warn", "error"]) {
    const shown = console[level].bind(console);
    console[level] = (...words) => {
      shown(...words);
      log(...words);
    };
  }
  addEventListener("error", ({ error, message }) => log(error ?? message ?? "a script failed"));
  addEventListener("unhandledrejection", (event) => log(event.reason));
  addEventListener("securitypolicyviolation", (event) =>
    log(`refused by ${event.violatedDirective}: ${event.blockedURI}`),
  );
}

/** Hold the line by which the host sees that this page lives; it ends when the job does. */
async function holdLine() {
  const { body } = await fetch("./alive");
  const reader = body.getReader();
  await reader.read(); // the first byte says that the host holds the other end
  const ended = async () => {
    try {
      while (!(await reader.read()).done);
    } catch {
      // a line that breaks ends the job as well
    }
  };
  return { over: ended() }; // in an object: a bare promise would be waited for
}

/** Ask the host, again where the browser dropped the question: a network that changes does that. */
async function ask(path, options) {
  for (let left = 20; ; left -= 1) {
    try {
      const response = await fetch(path, options);
      return [response.status, new Uint8Array(await response.arrayBuffer())];
    } catch (error) {
      if (left === 0) throw error;
      await new Promise((resume) => setTimeout(resume, 100));
    }
  }
}

async function next(number) {
  for (;;) {
    const [status, frame] = await ask(`./command?${number}`);
    if (status === 200) return frame;
    if (status !== 204) return null; // the job is over
  }
}

async function answered(runner, header, arrays) {
  try {
    return await runner.answer(header, arrays);
  } catch (error) {
    log(error);
    const what = String(error?.message ?? error);
    return [{ event: "error", what, type: error?.name ?? "Error" }, null];
  }
}

async function serve() {
  const runner = new Runner();
  for (let number = 1; ; number += 1) {
    const frame = await next(number);
    if (frame === null) return;
    const [header, arrays] = decode(frame);
    state.textContent = header.cmd;
    const [event, outputs] = await answered(runner, header, arrays);
    const now_ns = Math.round(performance.now() * 1e6);
    const body = encode({ ...event, now_ns }, outputs);
    await ask(`./answer?${number}`, { method: "POST", body });
    state.textContent = "waiting for its turn";
    if (header.cmd === "stop") return;
  }
}

listen();
navigator.wakeLock?.request("screen").catch(() => {}); // a screen that goes dark stops the page
const { over } = await holdLine();
await Promise.race([serve().catch(log), over]);
state.textContent = "over: this page can be closed";
window.close(); // allowed for a tab that a link opened
