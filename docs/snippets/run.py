"""Run a step graph in onnxruntime.

python run.py model.onnx frames.f32 outputs.f32
"""

import json
import sys

import numpy as np
import onnxruntime as ort

model, source, target = sys.argv[1:]
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
layout = json.loads(session.get_modelmeta().custom_metadata_map["streamrnn"])
feeds_back = {state["output"]: state["input"] for state in layout["states"]}
states = {  # a number, or all numbers one after another
    state["input"]: np.resize(np.float32(state["initial"]), state["shape"])
    for state in layout["states"]
}
x = next(i for i in session.get_inputs() if i.name not in states)
names = [output.name for output in session.get_outputs()]
calls = np.fromfile(source, np.float32).reshape(-1, *x.shape)  # each `stride_frames` frames
waited = layout["delay_frames"] // layout["stride_frames"]

outputs = []
for call, frames in enumerate(calls):
    results = dict(zip(names, session.run(names, {x.name: frames, **states}), strict=True))
    states = {feeds_back[name]: results.pop(name) for name in feeds_back}
    if call >= waited:  # before, the outputs mean nothing
        outputs.extend(results.values())
np.array(outputs, np.float32).tofile(target)
