"""Print what the metadata of an exported model says, for runtimes that cannot read it.

python layout.py model.onnx > model.json
"""

import sys

import onnx

proto = onnx.load(sys.argv[1], load_external_data=False)
print(next(note.value for note in proto.metadata_props if note.key == "streamrnn"))
