// Run a step graph in onnxruntime-web (WebAssembly, in a browser or in Node).
//
//     node run.mjs model.onnx model.json frames.f32 outputs.f32

import { readFile, writeFile } from "node:fs/promises"; // in a browser: fetch
import * as ort from "onnxruntime-web"; // or "onnxruntime-node", unchanged

const [model, layoutFile, source, target] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(new Uint8Array(await readFile(model)));
const layout = JSON.parse(await readFile(layoutFile, "utf8"));

const feeds = {}; // states, and the frames of one call
for (const { input, shape, initial } of layout.states) {
  const values = new Float32Array(shape.reduce((n, d) => n * d, 1));
  Array.isArray(initial) ? values.set(initial) : values.fill(initial);
  feeds[input] = new ort.Tensor("float32", values, shape);
}
const x = session.inputMetadata.find(({ name }) => !(name in feeds));
const y = session.outputNames.find((name) => layout.states.every((s) => s.output !== name));
const size = x.shape.reduce((n, d) => n * d, 1); // `stride_frames` frames
const frames = new Float32Array(new Uint8Array(await readFile(source)).buffer);
const waited = Math.floor(layout.delay_frames / layout.stride_frames);

const outputs = [];
for (let call = 0; (call + 1) * size <= frames.length; call++) {
  const chunk = frames.slice(call * size, (call + 1) * size);
  feeds[x.name] = new ort.Tensor("float32", chunk, x.shape);
  const results = await session.run(feeds);
  for (const { input, output } of layout.states) feeds[input] = results[output];
  if (call >= waited) outputs.push(...results[y].data); // before, the outputs mean nothing
}
await writeFile(target, new Uint8Array(Float32Array.from(outputs).buffer));
