// Frames, as torchopt2edge/runner/frames.py speaks them: one line of JSON, then the little-endian bytes
// of the arrays that it lists. An array here is {dtype, shape, data}, data a typed array; a dtype
// without a typed array of its own (bool, and float16 in older browsers) has its raw bits.

const HALF = globalThis.Float16Array ?? Uint16Array;
const TYPES = {
  bool: Uint8Array,
  float16: HALF,
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
};
const LINE_END = 10;

/** Return the bytes of one frame; `arrays` is a Map of arrays by name, or null. */
export function encode(header, arrays = null) {
  if (arrays === null) return new TextEncoder().encode(`${JSON.stringify(header)}\n`);
  const specs = [...arrays].map(([name, { dtype, shape }]) => ({ name, dtype, shape: [...shape] }));
  const line = new TextEncoder().encode(`${JSON.stringify({ ...header, arrays: specs })}\n`);
  const bodies = [...arrays.values()].map(({ data }) => data);
  const whole = new Uint8Array(bodies.reduce((sum, body) => sum + body.byteLength, line.length));
  whole.set(line);
  let at = line.length;
  for (const body of bodies) {
    whole.set(new Uint8Array(body.buffer, body.byteOffset, body.byteLength), at);
    at += body.byteLength;
  }
  return whole;
}

/** Return [header, arrays] of one whole frame. */
export function decode(bytes) {
  const end = bytes.indexOf(LINE_END);
  if (end < 0) throw new Error("what came is not a frame: a line without an end");
  const line = new TextDecoder().decode(bytes.subarray(0, end));
  const { arrays: specs = [], ...header } = JSON.parse(line);
  const arrays = new Map();
  let at = end + 1;
  for (const { name, dtype, shape } of specs) {
    const type = TYPES[dtype];
    if (type === undefined) throw new Error(`an array of ${dtype} cannot be read here`);
    const size = shape.reduce((product, n) => product * n, type.BYTES_PER_ELEMENT);
    if (at + size > bytes.length) throw new Error("the frame is cut short");
    arrays.set(name, { dtype, shape, data: new type(bytes.slice(at, at + size).buffer) });
    at += size;
  }
  return [header, arrays];
}
