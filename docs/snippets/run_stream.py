"""Run a step graph as a stream: the states, the delay and the stride are taken care of.

python run_stream.py model.onnx frames.f32 outputs.f32
"""

import sys

import numpy as np

from streamrnn.export import OnnxStream

model, source, target = sys.argv[1:]
stream = OnnxStream(model)
outputs = []
for frame in np.fromfile(source, np.float32).reshape(-1, *stream.input_shape):
    y = stream.step(frame)
    if y is not None:  # None: no output is due
        outputs.append(y)
np.array(outputs, np.float32).tofile(target)
