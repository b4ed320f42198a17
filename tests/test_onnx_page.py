"""The page about running an exported model: up to date, and its programs do what they say.

Those in Python and JavaScript run a model that is exported here, and have to return what our stream
does. onnxruntime-web comes from npm, into the cache folder of the examples' files; without Node or
without a connection its test is skipped. C++ is checked against declarations (or, with
``ONNXRUNTIME_INCLUDE``, against the library's own header), C# by a parser.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import assets
import streamrnn as sr
from zoo import trained

pytest.importorskip("onnxruntime", reason="export needs the extra `onnx`")

from streamrnn.export import to_onnx

ROOT = Path(__file__).resolve().parent.parent
SNIPPETS = ROOT / "docs" / "snippets"
WEB = "onnxruntime-web@1.30.0"


def test_the_page_is_made_of_the_programs_as_they_are(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import onnx_page

    assert onnx_page.PAGE.read_text(encoding="utf-8") == onnx_page.page(), (
        "python tools/onnx_page.py --write"
    )
    for program in SNIPPETS.iterdir():
        if program.suffix in onnx_page.LANGUAGES:
            assert program.read_text(encoding="utf-8") in onnx_page.page(), program


def _models():
    """Return a plain model, one that looks ahead and begins elsewhere, one with a slower output."""
    x = sr.Input(6)
    late = sr.GRUCell(4, 5)
    late.initial_state = {"h": np.linspace(-0.5, 0.5, 5)}
    ahead = sr.Model({"sound": x}, {"score": late(sr.Conv1d(6, 4, 5, lookahead=3)(x))})
    slow = sr.Sequential(sr.Conv1d(6, 4, 5, stride=3), sr.Align(2, 6, 3), sr.LSTM(4, 5))
    return {"plain": sr.LSTM(6, 7, num_layers=2), "ahead": ahead, "slow": slow}


@pytest.fixture(params=["plain", "ahead", "slow"])
def case(request, tmp_path):
    """Return a folder with an exported model and frames, and the outputs that have to come."""
    model = trained(_models()[request.param])
    to_onnx(model, tmp_path / "model.onnx")
    xs = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)
    xs.tofile(tmp_path / "frames.f32")
    wanted = model.stream().run(xs)
    assert (model.delay_frames > 0) == (request.param != "plain")
    assert len(wanted) == {"plain": 60, "ahead": 57, "slow": 16}[request.param]
    return tmp_path, wanted


def _runs(case, *command):
    folder, wanted = case
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got = np.fromfile(folder / "outputs.f32", np.float32)
    assert got.size == wanted.size
    assert np.abs(got.reshape(wanted.shape) - wanted).max() < 1e-5


@pytest.mark.parametrize("program", ["run.py", "run_stream.py"])
def test_the_programs_in_python_return_what_our_stream_does(program, case):
    _runs(case, sys.executable, SNIPPETS / program, "model.onnx", "frames.f32", "outputs.f32")


def _node_modules():
    """Return the folder with onnxruntime-web; skip where it cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("Node and npm are not installed")
    folder = assets.cache_folder() / WEB.replace("@", "-")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True)
        with place as temporary:
            flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", temporary]
            command = [npm, "install", *flags, WEB]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{WEB} cannot be fetched: {done.stderr.strip()[-200:]}")
            os.rename(temporary, folder)
    return folder / "node_modules"


def test_the_program_in_javascript_returns_what_our_stream_does(case):
    folder, _ = case
    modules = _node_modules()
    (folder / "node_modules").symlink_to(modules, target_is_directory=True)
    shutil.copy(SNIPPETS / "run.mjs", folder)
    layout = [sys.executable, SNIPPETS / "layout.py", "model.onnx"]
    with open(folder / "model.json", "wb") as file:
        subprocess.run(layout, cwd=folder, stdout=file, check=True)
    _runs(case, "node", "run.mjs", "model.onnx", "model.json", "frames.f32", "outputs.f32")


def test_the_program_in_c_plus_plus_compiles():
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("no C++ compiler is installed")
    include = os.environ.get("ONNXRUNTIME_INCLUDE") or ROOT / "tests" / "stubs"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", include]
    command = [compiler, *flags, SNIPPETS / "run.cpp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_program_in_c_sharp_can_be_parsed():
    tree_sitter = pytest.importorskip("tree_sitter", reason="a parser checks the syntax of C#")
    grammar = pytest.importorskip("tree_sitter_c_sharp", reason="a parser checks the syntax of C#")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    code = (SNIPPETS / "run.cs").read_bytes()
    assert not parser.parse(code).root_node.has_error
    assert parser.parse(code.replace(b";", b"", 1)).root_node.has_error
