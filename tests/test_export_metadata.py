"""What an exported file says beside the graph: the schema of docs/onnx-metadata.md."""

import json
from pathlib import Path

import numpy as np
import pytest

import streamrnn as sr
from streamrnn.version import VERSION

onnx = pytest.importorskip("onnx", reason="export needs the extra `onnx`")
pytest.importorskip("onnxruntime", reason="verification needs the extra `onnx`")

from streamrnn.export import add_state, to_onnx  # noqa: E402

DOCS = Path(__file__).parents[1] / "docs" / "onnx-metadata.md"
NOTES = {
    "sample_rate": 16000,
    "labels": ["speech", "noise"],
    "features": {"kind": "mel", "n_mels": 3, "window": 400, "hop": 160, "floor": -11.5},
    "who": "Zoë",
}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "m.onnx"


def _notes(path):
    return {p.key: p.value for p in onnx.load(path).metadata_props}


def _model(metadata=None):
    x = sr.Input(3)
    cell = sr.GRUCell(4, 2, name="memory", seed=1)
    cell.initial_state = {"h": np.array([0.5, -0.5])}
    front = sr.Conv1d(3, 4, 3, stride=2, lookahead=2, name="front", seed=2)
    return sr.Model({"mel": x}, {"score": cell(front(x))}, metadata)


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_everything_a_deployment_needs_is_said(form, target):
    to_onnx(_model(NOTES), target, form=form, batch=None)
    said = json.loads(_notes(target)["streamrnn"])
    assert len(said.pop("fingerprint")) == 32
    assert said == {
        "schema": 1,
        "version": VERSION,
        "form": form,
        "batch": None,
        "stride_frames": 2,
        "delay_frames": 2,
        "receptive_field_frames": None,
        "inputs": [
            {"name": "mel", "dtype": "float32", "shape": [3], "time_axis": 0, "batch_axis": 1}
        ],
        "outputs": [
            {"name": "score", "dtype": "float32", "shape": [2], "time_axis": 0, "batch_axis": 1}
        ],
        "states": [
            {
                "name": "front.past",
                "input": "front.past_in",
                "output": "front.past_out",
                "dtype": "float32",
                "shape": [2, None, 3],
                "batch_axis": 1,
                "stream_shape": [2, 3],
                "initial": 0.0,
            },
            {
                "name": "memory.h",
                "input": "memory.h_in",
                "output": "memory.h_out",
                "dtype": "float32",
                "shape": [1, None, 2],
                "batch_axis": 1,
                "stream_shape": [2],
                "initial": [0.5, -0.5],
            },
            {
                "name": "calls",
                "input": "calls_in",
                "output": "calls_out",
                "dtype": "float32",
                "shape": [1],
                "batch_axis": None,
                "stream_shape": None,
                "initial": 0.0,
            },
        ],
        "metadata": NOTES,
    }


def test_the_graph_has_the_axes_that_the_metadata_says(target):
    for batch in (1, 4):
        to_onnx(_model(), target, batch=batch)
        proto = onnx.load(target)
        said = json.loads(_notes(target)["streamrnn"])
        values = {v.name: v for v in (*proto.graph.input, *proto.graph.output)}
        shapes = {n: [d.dim_value for d in v.type.tensor_type.shape.dim] for n, v in values.items()}
        for state in said["states"]:
            assert shapes[state["input"]] == shapes[state["output"]] == state["shape"]
        for value in (*said["inputs"], *said["outputs"]):
            assert shapes[value["name"]][value["batch_axis"]] == batch
            assert shapes[value["name"]][2:] == value["shape"]


def test_the_page_in_the_documentation_names_every_key(target):
    to_onnx(_model(NOTES), target)
    said = json.loads(_notes(target)["streamrnn"])
    text = DOCS.read_text(encoding="utf-8")
    for key in (*said, *said["states"][0], *said["inputs"][0]):
        assert f"`{key}`" in text, key
    assert f"schema {said['schema']}" in text.lower()


def test_notes_stand_under_their_own_keys_as_texts_too(target):
    to_onnx(_model(NOTES), target)
    notes = _notes(target)
    assert notes["who"] == "Zoë"
    assert notes["sample_rate"] == "16000"
    assert json.loads(notes["labels"]) == NOTES["labels"]


def test_what_is_given_goes_over_what_the_model_carries(target):
    to_onnx(_model(NOTES), target, metadata={"sample_rate": 8000, "shift": (1, 2)})
    said = json.loads(_notes(target)["streamrnn"])["metadata"]
    assert said == NOTES | {"sample_rate": 8000, "shift": [1, 2]}
    to_onnx(sr.GRUCell(3, 2), target, metadata={"sample_rate": 8000})
    assert _notes(target)["sample_rate"] == "8000"


@pytest.mark.parametrize("suffix", ["onnx", "safetensors"])
def test_files_keep_it(suffix, tmp_path):
    path = tmp_path / f"m.{suffix}"
    if suffix == "onnx":
        to_onnx(_model(NOTES), path)
    else:
        _model(NOTES).save(path)
    loaded = sr.load(path)
    assert loaded.metadata == NOTES
    to_onnx(loaded, tmp_path / "again.onnx")
    assert json.loads(_notes(tmp_path / "again.onnx")["streamrnn"])["metadata"] == NOTES


def test_the_fingerprint_is_that_of_graph_and_weights(target):
    def fingerprint(model, **options):
        to_onnx(model, target, verify=False, **options)
        return json.loads(_notes(target)["streamrnn"])["fingerprint"]

    first = fingerprint(sr.GRUCell(3, 4, seed=0))
    assert first == sr.GRUCell(3, 4, seed=0).program().fingerprint
    assert first == fingerprint(sr.GRUCell(3, 4, seed=0), form="sequence", opset=21)
    assert first != fingerprint(sr.GRUCell(3, 4, seed=1))


def test_a_graph_that_got_its_state_says_its_own_layout(tmp_path):
    made = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        onnx.helper.make_node("GRU", ["t", "W", "R"], ["s"], hidden_size=4),
        onnx.helper.make_node("Squeeze", ["s", "one"], ["u"]),
        onnx.helper.make_node("Transpose", ["u"], ["y"], perm=[1, 2, 0]),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "W": rng.standard_normal((1, 12, 3)).astype(np.float32),
        "R": rng.standard_normal((1, 12, 4)).astype(np.float32),
        "one": np.array([1]),
    }
    graph = onnx.helper.make_graph(
        nodes,
        "foreign",
        [made("x", 1, [1, "time", 3])],
        [made("y", 1, [1, 4, "time"])],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    imports = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "a.onnx"
    )
    add_state(tmp_path / "a.onnx", tmp_path / "b.onnx")
    said = json.loads(_notes(tmp_path / "b.onnx")["streamrnn"])
    layout = {"dtype": "float32", "batch_axis": None}
    assert said["inputs"] == [{"name": "x", "shape": [1, 3], "time_axis": 1, **layout}]
    assert said["outputs"] == [{"name": "y", "shape": [1, 4], "time_axis": 2, **layout}]


def test_notes_of_foreign_files_are_metadata_where_they_fit(target):
    to_onnx(_model(), target)
    proto = onnx.load(target)
    texts = {"sample_rate": "44100", "labels": "speech,noise", "features": "mel", "made": "in 2025"}
    onnx.helper.set_model_props(proto, texts)
    onnx.save(proto, target)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input
    }
    states = {n: n.replace("_in", "_out") for n in shapes if n != "mel"}
    assert sr.load(target, states=states).metadata == {
        "sample_rate": 44100,
        "labels_text": "speech,noise",
        "features_text": "mel",
        "made": "in 2025",
    }


@pytest.mark.parametrize("schema", [2, "1", None])
def test_metadata_of_another_schema_is_refused(schema, target):
    to_onnx(_model(), target)
    proto = onnx.load(target)
    said = json.loads(_notes(target)["streamrnn"])
    onnx.helper.set_model_props(proto, {"streamrnn": json.dumps(said | {"schema": schema})})
    onnx.save(proto, target)
    with pytest.raises(sr.FileError, match=f"has schema {schema!r}, .* reads 1: update streamrnn"):
        sr.load(target)


BAD = {
    "no mapping": ([1], "metadata must be a mapping, got list"),
    "a key that is no text": (
        {3: "x"},
        "keys of metadata must be texts other than 'streamrnn', got 3",
    ),
    "our own key": ({"streamrnn": "x"}, "keys of metadata must be texts other than 'streamrnn'"),
    "an array": ({"mean": np.zeros(3)}, r"metadata\['mean'\] must be what JSON can say .*ndarray"),
    "NaN": ({"floor": float("nan")}, r"metadata\['floor'\] must be what JSON can say .*finite"),
    "bytes": ({"key": b"x"}, r"metadata\['key'\] must be what JSON can say"),
    "a rate of 0": (
        {"sample_rate": 0},
        r"\['sample_rate'\] must be a positive number of Hz, got 0",
    ),
    "no hop": ({"hop_samples": 0.5}, "must be a whole number from 1 on, got 0.5"),
    "a text": ({"sample_rate": "16000"}, "must be a positive number of Hz, got '16000'"),
    "labels in a text": ({"labels": "ab"}, "must be a list of different texts, got 'ab'"),
    "equal labels": (
        {"labels": ["a", "a"]},
        r"must be a list of different texts, got \['a', 'a'\]",
    ),
    "numbers": ({"labels": [0, 1]}, r"must be a list of different texts, got \[0, 1\]"),
    "three labels": (
        {"labels": ["a", "b", "c"]},
        "names 3 classes, but outputs have a last axis of",
    ),
    "features": ({"features": "mel"}, r"\['features'\] must be a mapping, got 'mel'"),
}


@pytest.mark.parametrize("name", BAD)
def test_metadata_that_makes_no_sense_is_refused(name, target):
    metadata, match = BAD[name]
    with pytest.raises(sr.ConfigError, match=f"Model: .*{match}"):
        _model(metadata)
    with pytest.raises(sr.ConfigError, match=f"to_onnx: .*{match}"):
        to_onnx(_model(), target, metadata=metadata)
    assert not list(target.parent.iterdir())


def test_what_we_say_beside_the_graph_is_parsed_once(target, monkeypatch):
    """It holds initial states, number by number: of large ones more text than weights."""
    to_onnx(_model(NOTES), target, verify=False)
    said, parse, parsed = _notes(target)["streamrnn"], json.loads, []

    def loads(text, *args, **options):
        parsed.append(text)
        return parse(text, *args, **options)

    monkeypatch.setattr(json, "loads", loads)
    model = sr.load(target)
    assert parsed.count(said) == 1
    assert model.metadata == NOTES
