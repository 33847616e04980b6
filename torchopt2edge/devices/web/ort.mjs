// ONNX Runtime Web on the CPU (WebAssembly), on the page's own thread.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

// An ONNX file of one Identity: to open it is to load the WebAssembly, which nothing else asks for.
const IDENTITY = "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0=";

/** Load the runtime; return its part of the receipt. */
export async function start(threads) {
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
  const bytes = Uint8Array.from(atob(IDENTITY), (character) => character.charCodeAt(0));
  const nothing = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  await nothing.release();
  return {
    runtime: "onnxruntime-web",
    runtime_version: ort.env.versions.web,
    provider: "wasm",
    threads: ort.env.wasm.numThreads,
  };
}

/** Open a file; the function that is returned is what is timed. */
export async function open(bytes, threads, { optimize = true }) {
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: ["wasm"],
    graphOptimizationLevel: optimize ? "all" : "disabled",
  });
  return async (arrays) => {
    const feeds = {};
    for (const [name, { dtype, shape, data }] of arrays) {
      feeds[name] = new ort.Tensor(dtype, data, shape);
    }
    const found = await session.run(feeds);
    const outputs = new Map();
    for (const name of session.outputNames) {
      const { type, dims, data } = found[name];
      outputs.set(name, { dtype: type, shape: dims, data });
    }
    return outputs;
  };
}
