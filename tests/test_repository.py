"""Promises of the repository itself: public names, docstrings, the wheel, what the pages say."""

import dataclasses
import inspect
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import streamrnn as sr
from streamrnn.ops import REGISTRY
from streamrnn.version import VERSION

ROOT = Path(__file__).resolve().parent.parent


def test_public_names_are_complete_and_exist():
    assert sr.__all__ == sorted(sr.__all__)
    assert len(set(sr.__all__)) == len(sr.__all__)
    for name in sr.__all__:
        assert getattr(sr, name) is not None
    public = {
        name
        for name, thing in vars(sr).items()
        if not name.startswith("_") and getattr(thing, "__module__", "").startswith("streamrnn")
    }
    assert public == set(sr.__all__)
    library = {n for n, op in REGISTRY.items() if op.__module__.startswith("streamrnn.ops")}
    assert library <= {*sr.__all__, "Cell", "Op"}


def _documented():
    """Yield every public class, function and method with its name."""
    for name in sr.__all__:
        thing = getattr(sr, name)
        yield name, thing
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{name}.{method}", function


def test_everything_public_is_documented():
    inherited = (sr.Layer, sr.Op)
    bare = [
        name
        for name, thing in _documented()
        if not inspect.getdoc(thing)
        and not any(hasattr(base, name.split(".")[-1]) for base in inherited)
        and name.split(".")[-1] not in ("formula", "numbers", "line", "moved", "factor")
    ]
    assert not bare


def test_whoever_takes_frames_says_their_shape():
    for thing in (sr.Stream.step, sr.Stream.run, sr.LSTMCell, sr.GRUCell, sr.RNNCell, sr.Linear):
        assert "[shape=" in inspect.getdoc(thing), thing


def test_ops_document_their_arguments():
    for op in REGISTRY.values():
        if not op.__module__.startswith("streamrnn.ops"):
            continue
        text = " ".join(inspect.getdoc(base) or "" for base in op.__mro__ if base is not object)
        for field in dataclasses.fields(op):
            assert re.search(rf"\b{field.name}\b", text), f"{op.__name__}: {field.name}"


def test_the_changelog_has_this_version():
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def _code(page, language="python"):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readmes_example_runs_and_is_short():
    example = _code("README.md")[0]
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 12
    assert lines[-1].startswith("assert ")
    subprocess.run([sys.executable, "-c", example], check=True, cwd=ROOT)


def test_the_cell_of_the_contributing_page_keeps_all_promises(tmp_path, monkeypatch):
    """A newcomer's cell: one file, and it streams, blocks, saves and exports."""
    (tmp_path / "leaky.py").write_text(_code("CONTRIBUTING.md")[0], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import leaky

    xs = np.random.default_rng(0).standard_normal((70, 5)).astype(np.float32)
    for size in (1, 3, 20, 100):
        cell = leaky.LeakyCell(5, size, seed=size)
        block = cell.stream().run(xs)
        assert np.abs(block - sr.ReferenceStream(cell).run(xs)).max() < 1e-5
        stream = cell.stream()
        assert np.array_equal(block, np.array([stream.step(x) for x in xs]))
        assert list(stream.state) == ["leaky_0.h"]
    cell.save(tmp_path / "leaky.safetensors")
    assert np.array_equal(sr.load(tmp_path / "leaky.safetensors").run(xs), block)
    pytest.importorskip("onnxruntime")
    from streamrnn.export import to_onnx

    assert to_onnx(cell, tmp_path / "leaky.onnx").max_error < 1e-5
    strided = sr.Sequential(cell, sr.Conv1d(100, 2, 3, stride=2, seed=0))
    assert to_onnx(strided, tmp_path / "strided.onnx").max_error < 1e-5
    options = {"form": "sequence", "batch": None, "functions": True}
    assert to_onnx(strided, tmp_path / "sequence.onnx", **options).max_error < 1e-5


def test_pages_link_to_files_that_exist():
    for page in ROOT.glob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_the_wheel_holds_exactly_the_two_packages(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("streamrnn", "export", "pyproject.toml", "README.md"):
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path)]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if "Could not find a version" in built.stderr:
        pytest.skip("the build back end cannot be fetched")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {
        "streamrnn",
        "streamrnn_export",
        f"streamrnn-{VERSION}.dist-info",
    }
    wanted = {
        str(p.relative_to(root).as_posix())
        for root in (ROOT, ROOT / "export")
        for package in ("streamrnn", "streamrnn_export")
        for p in (root / package).rglob("*")
        if p.suffix in (".py", ".typed")
    }
    assert wanted <= set(names)


def test_no_file_imports_an_optional_dependency_in_the_core():
    heavy = re.compile(
        r"^\s*(import|from) (onnx|onnxruntime|torch|h5py|matplotlib|soundfile)\b", re.M
    )
    for path in (ROOT / "streamrnn").rglob("*.py"):
        if path.name != "export.py" and "importers" not in path.parts:  # read when needed
            assert not heavy.search(path.read_text(encoding="utf-8")), path
