"""Kernels made ready: workers, what is shown, folders that cannot be written, the command."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import streamrnn as s
from streamrnn.kernels import compile as making
from streamrnn.kernels.cache import cache_folder
from streamrnn.kernels.compile import Part
from streamrnn.kernels.pool import ADVANCE, CHECK, POOL_JOB
from streamrnn.kernels.tape import LOOP
from streamrnn.kernels.team import TEAM
from streamrnn.ops.activations import relu
from streamrnn.ops.linear import linear
from streamrnn.warm import parts_of
from test_kernel_cache import _RELU, _damaged, _output, _python, package, warm
from test_narrow import NARROW
from zoo import CASES

__all__ = ["package", "warm"]  # fixtures

made: list[str] = []
"""Which of the parts below were compiled in this process."""


class Fake:
    """Stands for a kernel; a worker finds it by the name under which it stands below."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.function = SimpleNamespace(__module__=__name__)

    def is_kept(self, on_disk: bool = False) -> bool:
        return False

    def kept_file(self) -> None:
        return None

    @property
    def compiled(self) -> None:
        if self.name == "interrupted":
            raise KeyboardInterrupt
        made.append(self.name)


a, b, c, d = (Fake(name) for name in "abcd")
interrupted = Fake("interrupted")

_ANSWERS = "import sys\nfor line in sys.stdin: print('done', flush=True)"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Workers run a script that tests choose with ``started.append``; here are those started."""
    workers: list[Any] = []
    made.clear()

    def start() -> subprocess.Popen[str]:
        script = workers.pop(0) if workers and isinstance(workers[0], str) else _ANSWERS
        worker = subprocess.Popen(
            [sys.executable, "-I", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        workers.append(worker)
        return worker

    monkeypatch.setattr(making, "_worker", start)
    return workers


def test_parts_are_shared_out_and_each_is_told_of(started: list[Any]) -> None:
    told: list[tuple[int, int]] = []
    making._compile([a, b, c, d], 3, lambda done, total: told.append((done, total)))
    assert told == [(i, 4) for i in range(5)]
    assert set(made) == set("abcd"), "what a worker has compiled is taken over here"
    assert len(started) == 2
    assert all(worker.poll() is not None for worker in started)


@pytest.mark.parametrize("script", ["raise SystemExit(3)", "input(); raise SystemExit(3)"])
def test_what_a_worker_that_dies_leaves_is_done_here(script: str, started: list[Any]) -> None:
    started.append(script)
    making._compile([a, b, c, d], 2, lambda done, total: None)
    assert set(made) == set("abcd")


def test_without_processes_all_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise OSError("no processes")

    made.clear()
    monkeypatch.setattr(making, "_worker", refused)
    making._compile([a, b, c, d], 4, lambda done, total: None)
    assert set(made) == set("abcd")


def test_an_interrupt_ends_the_workers(started: list[Any]) -> None:
    started.append("import time\ntime.sleep(100)")
    with pytest.raises(KeyboardInterrupt):
        making._compile([a, interrupted, b, interrupted], 2, lambda done, total: None)
    assert [worker.poll() is None for worker in started] == [False]


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = making._jobs(None, 1000)
    assert cpus >= 1
    assert [making._jobs(8, n) for n in (1, 3, 4, 7, 100)] == [1, 1, 2, 3, 8]
    monkeypatch.setenv("STREAMRNN_JOBS", "1")
    assert making._jobs(None, 1000) == 1
    monkeypatch.setenv("STREAMRNN_JOBS", "many")
    with pytest.raises(ValueError, match=r"STREAMRNN_JOBS must be a whole number .* got 'many'"):
        making._jobs(None, 1000)
    monkeypatch.setattr(sys, "executable", "/opt/blender")
    assert making._jobs(8, 1000) == 1, "a program that holds an interpreter starts no other"


def test_where_a_worker_finds_a_part() -> None:
    assert making._place(relu) == "streamrnn.ops.activations:relu"
    assert making._place(LOOP) == "streamrnn.kernels.tape:LOOP"
    assert making._place(linear.storing("float16")) == "streamrnn.ops.linear:linear:float16:plain"
    for part in parts_of():
        assert making._part(making._place(part)) is part, part
    own = Fake("own")
    own.function.__module__ = "__main__"
    assert making._place(own) == ""
    assert making._place(Fake("of no module")) == ""


def test_workers_fill_the_cache(tmp_path: Path) -> None:
    code = (
        "import logging, os, numpy as np, streamrnn as s\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "from streamrnn.kernels import compile as making\n"
        "real, places = making._worker, []\n"
        "def spied():\n"
        "    worker = real(); write = worker.stdin.write\n"
        "    worker.stdin.write = lambda line: (places.append(line.strip()), write(line))\n"
        "    return worker\n"
        "making._worker = spied\n"
        "making._jobs = lambda wanted, missing: 2\n"
        "m = s.Sequential(s.Input(2), s.ReLU(), s.Square(), s.Abs())\n"
        "print(m.step(np.array([-2, 3], np.float32)), len(places) > 0)\n"
        "print(all(part.is_kept(on_disk=True) for part in m.program().kernels))\n"
    )
    done = _python(code, STREAMRNN_CACHE_DIR=str(tmp_path), STREAMRNN_PROGRESS="")
    assert done.stdout.splitlines() == ["[0. 9.] True", "True"], done.stderr
    first, last = done.stderr.splitlines()
    assert first == "compiling 4 kernels (once on this machine)"
    assert last.startswith("compiled 4 kernels in ")


# What is shown ------------------------------------------------------------------------------------


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert making.prepare([a, b], jobs=1) == 2
    shown = terminal.text.split("\r")
    assert shown[2] == "streamrnn: compiling kernels 1/2 (once on this machine)"
    assert terminal.text.endswith("\r\x1b[K")


@pytest.mark.parametrize(("off", "level"), [("", logging.INFO), ("0", logging.DEBUG)])
def test_elsewhere_it_is_logged_and_can_be_switched_off(
    off: str,
    level: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STREAMRNN_PROGRESS", off)
    with caplog.at_level(logging.DEBUG, "streamrnn"):
        making.prepare([a, b], jobs=1)
    assert [record.levelno for record in caplog.records] == [level, level]
    assert capsys.readouterr() == ("", "")
    if off:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        making.prepare([a, b], jobs=1)
        assert terminal.text == ""


# Folders that cannot be written -------------------------------------------------------------------

_FIRST = "import pathlib, sys; from streamrnn.kernels import cache\n"
_READ_ONLY = _FIRST + "cache.writable = lambda folder: False\n"
_READ_ONLY += "import streamrnn.kernels.compile as c; c.writable = cache.writable\n"


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_warm_folder_is_only_read(warm: Path) -> None:
    """Nothing is even tried, so it does not matter that tests may run as root."""
    before = _contents(warm.parent)
    watch = (
        "import sys\n"
        "def refuse(event, args):\n"
        "    writes = event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+')\n"
        "    if writes or event in ('os.mkdir', 'os.rename', 'os.remove', 'subprocess.Popen'):\n"
        "        raise PermissionError(event)\n"
        "import streamrnn\n"
        "sys.addaudithook(refuse)\n"
    )
    done = _python(watch + _RELU, STREAMRNN_CACHE_DIR=str(warm.parent))
    assert (done.stdout.strip(), done.stderr) == ("[0. 3.]", "")
    assert _contents(warm.parent) == before


def test_a_cold_folder_that_cannot_be_written_is_replaced_and_told_of_once(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    code = _RELU + "s.Sequential(s.Input(2), s.ReLU()).stream()\n"
    code += "from streamrnn.kernels.cache import cache_folder; print(cache_folder())\n"
    done = _python(code, STREAMRNN_CACHE_DIR=str(blocked))
    result, folder = done.stdout.splitlines()
    assert result == "[0. 3.]"
    assert done.stderr.count("compiled kernels cannot be kept") == 1
    assert str(blocked) in done.stderr
    assert not Path(folder).exists(), "a temporary folder goes with its process"


def test_a_read_only_folder_that_lacks_a_kernel_is_told_of(warm: Path) -> None:
    for file in warm.glob("activations.*"):
        file.unlink()
    done = _python(_READ_ONLY + _RELU, STREAMRNN_CACHE_DIR=str(warm.parent))
    assert done.stdout.strip() == "[0. 3.]"
    assert f"{warm} lacks 1 kernels and cannot be written" in done.stderr


def test_a_warm_start_imports_nothing_that_only_compiling_needs(warm: Path) -> None:
    code = _RELU + "import sys; print([m for m in sys.modules if m.startswith('numba.np.array')])"
    out = _output(code, STREAMRNN_CACHE_DIR=str(warm.parent))
    assert out.splitlines() == ["[0. 3.]", "[]"]


# Warm-up ------------------------------------------------------------------------------------------


def test_warmup_of_a_model() -> None:
    model = s.Sequential(s.Input(2), s.ReLU(), s.ReLU())
    s.warmup(model)
    found = s.warmup(model)
    common = len({LOOP, *TEAM, CHECK, ADVANCE, POOL_JOB})
    assert (found.folder, found.kernels, found.compiled) == (cache_folder(), common + 1, 0)
    with pytest.raises(s.ConfigError, match=r"warmup: expected models, got"):
        s.warmup("model.onnx")  # type: ignore[arg-type]
    with pytest.raises(s.ConfigError, match=r"jobs must be a whole number from 1 on, got 0"):
        s.warmup(model, jobs=0)


_EVERY_WAY = """
import sys, numpy as np
from numba.core import compiler
import streamrnn as s

def refuse(self, *args):
    raise AssertionError(f"{self.state.func_id.func_qualname} is compiled")

compiler.CompilerBase._compile_core = refuse
for path in sys.argv[1:]:
    model = s.load(path)
    x = np.ones((2, *model.stream().input_shape), np.float32)
    for threads in (1, 2):
        stream, pool = model.stream(threads=threads), model.pool(threads=threads)
        pool.join(70)
        y = pool.step(np.repeat(x[:1], 70, axis=0))
        assert np.array_equal(y[69], stream.run(x)[0])
        print(stream._walk is not None)
"""


def _only_with(parts: list[Part], folder: Path) -> Path:
    """Make a cache that holds these parts and nothing else."""
    there = folder / cache_folder().name
    there.mkdir(parents=True)
    for file in (part.kept_file() for part in parts):
        assert file is not None
        index = file.path.with_name(f"{file.path.name.rsplit('.', 2)[0]}.nbi")
        for path in (file.path, index):
            shutil.copy(path, there)
    return folder


def test_a_warm_machine_makes_streams_pools_and_threads_and_compiles_nothing(
    tmp_path: Path,
) -> None:
    model = s.Sequential(s.Conv1d(5, 140, 3), s.ReLU(), s.GRU(140, 128), s.LSTM(128, 20))
    forms = [model, *(model.quantize(mode) for mode in ("float16", "bfloat16", "int8"))]
    s.warmup(*forms)
    paths = [tmp_path / f"{i}.safetensors" for i in range(len(forms))]
    for form, path in zip(forms, paths, strict=True):
        form.save(path)
    cache = _only_with(parts_of(*forms), tmp_path / "cache")
    before = _contents(cache)
    done = _python(_EVERY_WAY, *map(str, paths), STREAMRNN_CACHE_DIR=str(cache))
    assert done.returncode == 0, done.stderr
    shared = ["False", "True"] * 3 + ["False"] * 2  # int8 kernels are the calling thread's
    assert done.stdout.split() == shared
    assert _contents(cache) == before


def test_all_kernels_are_those_of_every_model() -> None:
    everything = set(parts_of())
    for case in (*CASES, *NARROW):
        assert everything.issuperset(parts_of(case.model)), case


def test_a_program_compiles_nothing_until_a_stream_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("streamrnn.program.prepare", lambda parts: asked.append(list(parts)))
    model = s.Sequential(s.Input(2), s.ReLU())
    program = model.program()
    assert (program.kernels, asked) == ((relu,), [])
    model.stream()
    assert asked == [[LOOP, relu]]


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="the command needs the extra `cli`")
    s.Sequential(s.Input(2), s.ReLU()).save(tmp_path / "m.safetensors")
    code = "import sys; from streamrnn.cli import main; main()"
    cache = {"STREAMRNN_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "300"}

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return _python(code, "warmup", *words, **cache)

    model = str(tmp_path / "m.safetensors")
    done = command(model, "--check")
    needed = sorted(part.name for part in parts_of(s.Sequential(s.Input(2), s.ReLU())))
    missing = f"missing: {', '.join(needed)}"
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, missing)
    done = command(model, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "cache" / cache_folder().name
    first, second = done.stdout.splitlines()
    n = len(needed)
    assert first.startswith(f"{n} kernels, {n} compiled now in ")
    assert second == f"kept in {folder}"
    done = command(model, "--list", "--check")
    assert done.returncode == 0
    there = [f"kept    {name}" for name in needed]
    assert done.stdout.splitlines() == [*there, f"{n} kernels, 0 missing in {folder}"]
    (machine_code,) = folder.glob("activations.relu_*.nbc")
    machine_code.write_bytes(_damaged(machine_code.read_bytes(), "a page of zeros"))
    (index,) = folder.glob("tape._advance*.nbi")
    index.write_bytes(_damaged(index.read_bytes(), "cut short"))
    done = command(model, "--check", "--list")
    assert done.returncode == 1
    assert "damaged relu" in done.stdout
    assert done.stdout.splitlines()[-3:] == [
        f"{n} kernels, 0 missing, 2 damaged in {folder}",
        f"damaged: advance ({index}); without --check it is compiled anew",
        f"damaged: relu ({machine_code}); without --check it is compiled anew",
    ]
    assert ", 2 compiled now in " in command(model).stdout
    assert command(model, "--check").returncode == 0


def test_the_commands_arguments(tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="the command needs the extra `cli`")
    from typer.testing import CliRunner

    from streamrnn.cli.app import app

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["warmup", *words])
        return result.exit_code, result.output

    assert run()[0] == run("--all", "m.onnx")[0] == run("m.onnx", "--jobs", "0")[0] == 2
    code, text = run(str(tmp_path / "none.safetensors"))
    assert (code, "none.safetensors" in text) == (1, True)
    code, text = run("--all", "--list")
    names = {line.split()[-1] for line in text.splitlines()[:-1]}
    assert code == 0
    assert {"advance", "relu", "lstm_cell", "retain"} <= names


def test_frames_of_a_warmed_model_are_right() -> None:
    model = s.GRU(3, 4, seed=0)
    s.warmup(model)
    xs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = np.array(s.ReferenceStream(model).run(xs))
    np.testing.assert_allclose(model.run(xs), expected, atol=1e-6)
