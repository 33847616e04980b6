// LiteRT.js on the CPU (WebAssembly with XNNPACK), on the page's own thread.

import * as litert from "@litertjs/core";

const PACKAGE = new URL("./node_modules/@litertjs/core/", import.meta.url);

/** Load the runtime; return its part of the receipt. */
export async function start(threads) {
  await litert.loadLiteRt(new URL("./wasm/", PACKAGE).href, { threads: threads > 1 });
  const { version } = await (await fetch(new URL("./package.json", PACKAGE))).json();
  return { runtime: "litert.js", runtime_version: version, delegate: "XNNPACK", threads };
}

/** Open a file; the function that is returned is what is timed. */
export async function open(bytes, threads) {
  const options = { accelerator: "wasm", cpuOptions: { numThreads: threads } };
  const model = await litert.loadAndCompile(bytes, options).catch((error) => {
    throw new Error(`LiteRT.js cannot open this file: ${error.message ?? error}`, { cause: error });
  });
  return async (arrays) => {
    const given = {};
    for (const [name, { shape, data }] of arrays) given[name] = new litert.Tensor(data, shape);
    const found = await model.run(given);
    const outputs = new Map();
    for (const [name, tensor] of Object.entries(found)) {
      const { dtype, layout } = tensor.type;
      outputs.set(name, { dtype, shape: [...layout.dimensions], data: tensor.toTypedArray() });
      tensor.delete();
    }
    for (const tensor of Object.values(given)) tensor.delete();
    return outputs;
  };
}
