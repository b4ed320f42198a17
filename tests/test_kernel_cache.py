"""Compiled kernels on disk, vectors of other widths, what an import pulls in, and ops of users."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numba
import numpy as np
import pytest

import checks
import streamrnn as s
from streamrnn import ConfigError, Input, Model, Sequential
from streamrnn.kernels.cache import PACKAGE, cache_folder, source_stamp
from streamrnn.kernels.simd import fma, lanes, load, store
from streamrnn.kernels.tape import (
    Frames,
    Number,
    Scratch,
    Size,
    State,
    Weights,
    elementwise,
    helper,
    kernel,
)
from streamrnn.ops import REGISTRY, Op
from zoo import Case

if TYPE_CHECKING:
    from streamrnn.kernels.simd import Vector
    from streamrnn.program import Location, Lowering

TESTS = Path(__file__).parent


def _python(
    code: str, *args: str, root: Path = PACKAGE.parent, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own that finds the library in `root`."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *args],
        cwd=root,  # a script given by -c looks there first
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{TESTS}", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _output(code: str, *args: str, **options: Any) -> str:
    done = _python(code, *args, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the library."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "copy" / "streamrnn", ignore=ignore)
    return tmp_path / "copy"


_STAMP = "from streamrnn.kernels.cache import source_stamp; print(source_stamp())"


# The stamp ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["kernels/functions.py", "kernels/simd.py", "kernels/product.py", "ops/gru.py"]
)
def test_an_edit_of_any_kernel_source_changes_the_stamp(file: str, package: Path) -> None:
    assert _output(_STAMP, root=package) == source_stamp(), "a copy is the same library"
    edited = package / "streamrnn" / file
    edited.write_text(edited.read_text() + "\n# edited\n")
    assert _output(_STAMP, root=package) != source_stamp()


def test_the_width_of_vectors_is_part_of_the_stamp() -> None:
    stamps = {_output(_STAMP, STREAMRNN_LANES=lanes) for lanes in ("4", "8", "16")}
    assert len(stamps) == 3


_RELU = (
    "import numpy as np, streamrnn as s\n"
    "print(s.Sequential(s.Input(2), s.ReLU()).stream().step(np.array([-2, 3], np.float32)))\n"
)


def test_an_edited_helper_is_not_hidden_by_a_stale_kernel(package: Path, tmp_path: Path) -> None:
    """numba's own cache watches the kernel's file only; ``relu`` is in another one."""
    cache = tmp_path / "cache"
    shutil.copytree(cache_folder(), cache / cache_folder().name)
    assert _output(_RELU, root=package, STREAMRNN_CACHE_DIR=str(cache)) == "[0. 3.]"
    functions = package / "streamrnn" / "kernels" / "functions.py"
    source = functions.read_text()
    edited = source.replace("return vmax(x, splat(0.0))", "return vmax(x, splat(-1.0))")
    assert edited != source, "relu has moved: adapt this test"
    functions.write_text(edited)
    assert _output(_RELU, root=package, STREAMRNN_CACHE_DIR=str(cache)) == "[-1.  3.]"


# The folder ---------------------------------------------------------------------------------------

_FOLDER = "from streamrnn.kernels.cache import cache_folder; print(cache_folder())"


def test_the_cache_is_beside_the_package_unless_a_folder_is_named(
    package: Path, tmp_path: Path
) -> None:
    name = f"kernels-{source_stamp()}"
    beside = _output(_FOLDER, root=package, STREAMRNN_CACHE_DIR="")
    assert Path(beside) == package / "streamrnn" / "__pycache__" / name
    named = _output(_FOLDER, root=package, STREAMRNN_CACHE_DIR=str(tmp_path / "named"))
    assert Path(named) == tmp_path / "named" / name


def test_a_read_only_package_falls_back_to_the_users_cache(package: Path, tmp_path: Path) -> None:
    blocked = package / "streamrnn" / "__pycache__"
    blocked.write_text("a file where a folder should be: nobody can write here, not even root")
    home = {"XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    folder = Path(_output(_FOLDER, root=package, STREAMRNN_CACHE_DIR="", **home))
    assert folder == tmp_path / "home" / "streamrnn" / f"kernels-{source_stamp()}"
    assert folder.is_dir()


def test_where_nothing_can_be_written_kernels_still_compile(package: Path, tmp_path: Path) -> None:
    (package / "streamrnn" / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    home = {"XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    assert _output(_RELU, root=package, STREAMRNN_CACHE_DIR="", **home) == "[0. 3.]"


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    """A cache with the kernels that the script above needs."""
    folder = tmp_path / "cache" / cache_folder().name
    _output(_RELU)  # at least once on this machine
    folder.mkdir(parents=True)
    for file in cache_folder().iterdir():
        if file.name.startswith(("tape.", "activations.relu_")):
            shutil.copy(file, folder)
    assert {f.suffix for f in folder.iterdir()} == {".nbi", ".nbc"}
    return folder


def _damaged(data: bytes, how: str) -> bytes:
    if how == "cut short":
        return data[: len(data) // 2]
    if how == "empty":
        return b""
    if how == "garbage":
        return b"\x80garbage" * 40
    if how == "a page of zeros":  # among the instructions, as power that fails may leave it
        return data[: len(data) // 64] + bytes(4096) + data[len(data) // 64 + 4096 :]
    return data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :]


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        *((".nbi", how) for how in ("cut short", "empty", "garbage", "zeros in the middle")),
        *((".nbc", how) for how in ("cut short", "empty", "garbage", "a page of zeros")),
    ],
)
def test_a_damaged_cache_is_compiled_anew(suffix: str, how: str, warm: Path) -> None:
    for file in warm.glob(f"*{suffix}"):
        file.write_bytes(_damaged(file.read_bytes(), how))
    assert _output(_RELU, STREAMRNN_CACHE_DIR=str(warm.parent)) == "[0. 3.]"


def test_a_warm_cache_compiles_nothing(warm: Path) -> None:
    code = (
        "from numba.core import event\n"
        "with event.install_recorder('numba:compile') as recorder:\n"
        + "".join(f"    {line}\n" for line in _RELU.splitlines())
        + "print(len(recorder.buffer), 'compilations')\n"
    )
    out = _output(code, STREAMRNN_CACHE_DIR=str(warm.parent))
    assert out.splitlines() == ["[0. 3.]", "0 compilations"]


# Vectors of other widths --------------------------------------------------------------------------

_NAMES = (
    "RNNCell 17-33",
    "GRUCell 5-20",
    "GRUCell reset before 3-3",
    "LSTMCell 7-100",
    "Linear on rows",
    "Conv1d groups 2 of 17",
    "Conv1d depthwise 33 dilation 3",
    "FrameConv1d dilation 2 padding 4 stride 3",
    "LayerNorm 33",
    "GELU 100",
    "Exp 3",
    "Log 20",
    "Softmax axis 0",
    "strided front end and GRU",
    "spectral front end and LSTM",
    "many branches",
)
_CHECK = (
    "import sys, checks, zoo\n"
    "from streamrnn.kernels.simd import host\n"
    "for name in sys.argv[1:]:\n"
    "    case = zoo.find(name)\n"
    "    checks.check_reference(case)\n"
    "    checks.check_chunks(case)\n"
    "    checks.check_reset(case)\n"
    "print(host().lanes, 'lanes')\n"
)


@pytest.mark.parametrize("lanes", ["4", "8", "16"])
def test_vectors_of_any_width_compute_the_same_equations(lanes: str) -> None:
    """Half and quarter vectors are what other CPUs have; LLVM makes do with what this one has."""
    assert _output(_CHECK, *_NAMES, STREAMRNN_LANES=lanes) == f"{lanes} lanes"


def test_a_snapshot_moves_between_machines_of_different_width(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, zoo\n"
        "path, mode = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "case = zoo.find('strided front end and GRU')\n"
        "stream, xs = case.model.stream(), case.frames(60)\n"
        "if mode == 'write':\n"
        "    stream.run(xs[:31])\n"
        "    path.write_bytes(stream.snapshot())\n"
        "else:\n"
        "    stream.restore(path.read_bytes())\n"
        "print(stream.run(xs[31:])[-1].tolist())\n"
    )
    path = str(tmp_path / "snapshot")
    here = np.array(eval(_output(code, path, "write", STREAMRNN_LANES="4")))
    there = np.array(eval(_output(code, path, "read", STREAMRNN_LANES="16")))
    checks.assert_close(there, here, 1e-5)


@pytest.mark.parametrize("lanes", ["0", "2", "32", "eight", "8 ", "-8", "8.0"])
def test_another_width_is_refused(lanes: str) -> None:
    done = _python("import streamrnn.kernels.simd as simd; simd.host()", STREAMRNN_LANES=lanes)
    assert done.returncode != 0
    assert f"STREAMRNN_LANES must be 4, 8 or 16, got {lanes!r}" in done.stderr


# Imports ------------------------------------------------------------------------------------------


def test_importing_the_library_imports_nothing_heavy() -> None:
    code = (
        "import sys, numba\n"  # which looks at scipy's version, where it is installed
        "names = lambda: {name.split('.')[0] for name in sys.modules}\n"
        "before = names()\n"
        "import streamrnn, numpy as np\n"
        "streamrnn.GRUCell(3, 3).step(np.zeros(3, np.float32))\n"
        "heavy = {'onnx', 'onnxruntime', 'torch', 'matplotlib', 'keras', 'tensorflow', 'scipy'}\n"
        "print(sorted(heavy & names() - before))\n"
    )
    assert _output(code) == "[]"


# Ops of users -------------------------------------------------------------------------------------


@kernel
def leaky_integrator(
    T: Frames,
    x: Scratch,
    x_step: Size,
    y: Scratch,
    y_step: Size,
    level: State,
    rates: Weights,
    leak: Number,
    n: Size,
) -> None:
    """level = leak * level + rate * x, the output is the level."""
    for t in range(T):
        for i in range(0, n, lanes()):
            new = fma(load(rates, i), load(x, t * x_step + i), load(level, i) * leak)
            store(y, t * y_step + i, new)
            store(level, i, new)


@elementwise
def cube(x: Vector) -> Vector:
    return x * x * x


@dataclass(eq=False)
class LeakyIntegrator(Op):
    """``level = leak * level + rate * x``."""

    size: int
    leak: float = 0.9

    prefix: ClassVar[str] = "leaky"

    def __post_init__(self) -> None:
        self.at_least(size=1)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"rate": (self.size,)}

    def initial_weight(self, name: str, shape: Any, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(0.1, 1.0, shape)

    def state_shapes(self, *shapes: Any) -> dict[str, tuple[int, ...]]:
        return {"level": (self.size,)}

    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.size,),)

    def output_shape(self, *shapes: Any) -> tuple[int, ...]:
        self.expect(shapes[0], (self.size,))
        return shapes[0]

    def reference(self, weights: Any, states: Any, *xs: Any) -> np.ndarray:
        states["level"] = self.leak * states["level"] + weights["rate"] * xs[0]
        return states["level"]

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(
            leaky_integrator,
            x=xs[0],
            y=y,
            level=tape.state("level"),
            rates=tape.vector(self.weights["rate"]),
            leak=self.leak,
            n=self.size,
        )
        return y


class Cube(Op):
    """``x ** 3``."""

    def output_shape(self, *shapes: Any) -> tuple[int, ...]:
        return shapes[0]

    def reference(self, weights: Any, states: Any, *xs: Any) -> np.ndarray:
        return xs[0] ** 3

    def lower(self, tape: Lowering, *xs: Location) -> Location:
        y = tape.output()
        tape.emit(cube, x=xs[0], y=y, n=y.size)
        return y


def _with_own_ops() -> Model:
    x = Input(5)
    level = LeakyIntegrator(5, 0.8)(x)
    slow = s.Conv1d(5, 7, 2, stride=2)(level + x)
    return Model(x, s.GRUCell(7, 3)(Cube()(slow)))


OWN = [
    Case("alone", lambda: LeakyIntegrator(20, 0.7)),
    Case("behind an input", lambda: Sequential(Input(33), Cube(), LeakyIntegrator(33)), 1e-4),
    Case("in a graph", _with_own_ops, 1e-4),
]
"""A cube of a number of 4 is 64: rounding errors of the input grow by a factor of 3 x²."""


@pytest.mark.parametrize("case", OWN, ids=repr)
def test_an_op_of_ones_own_keeps_every_promise(case: Case, tmp_path: Path) -> None:
    checks.check_reference(case)
    checks.check_chunks(case)
    checks.check_reset(case)
    checks.check_neighbours(case)
    checks.check_rollback(case)
    checks.check_snapshot(case)
    checks.check_aliasing(case)
    checks.check_state(case)
    checks.check_policies(case)
    checks.check_file(case, tmp_path)


def test_an_op_of_ones_own_is_known_and_named() -> None:
    assert REGISTRY["LeakyIntegrator"] is LeakyIntegrator
    model = _with_own_ops()
    assert list(model.stream().state) == ["leaky_0.level", "conv1d_0.past", "gru_0.h"]
    assert {"rate"} == LeakyIntegrator(3).state_dict().keys()
    with pytest.raises(s.GraphError, match=r"LeakyIntegrator\(size=3, leak=0.9\) expects frames"):
        LeakyIntegrator(3)(Input(4))


def test_two_ops_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="an op named GRUCell exists already"):
        type("GRUCell", (Op,), {"lower": Cube.lower})
    assert REGISTRY["GRUCell"] is s.GRUCell


def test_a_helper_is_compiled_into_kernels_and_never_by_itself() -> None:
    @helper
    def twice(x: Any) -> Any:
        return x + x

    @helper
    def four_times(x: Any) -> Any:
        return twice(twice(x))

    def called(x: float) -> float:
        return four_times(x)  # type: ignore[no-any-return]

    caller = numba.njit(called)
    assert caller(1.5) == 6.0
    for function, is_code in ((caller, True), (four_times, False), (twice, False)):
        (made,) = function.overloads.values()
        assert bool(made.library.get_pointer_to_function(made.fndesc.llvm_func_name)) == is_code


def test_a_kernel_says_what_is_wrong_with_its_parameters() -> None:
    def untyped(T, x):  # type: ignore[no-untyped-def]
        pass

    with pytest.raises(TypeError, match="kernel untyped: annotate `T` with one of Frames, Index"):
        kernel(untyped)
    scope: dict[str, Any] = {}
    # Annotations are text in there too: what this file imports from __future__ holds for exec.
    exec("def many(" + ", ".join(f"n{i}: Size" for i in range(30)) + "): pass", scope)
    with pytest.raises(TypeError, match="kernel many: at most 23 parameters"):
        kernel(scope["many"])


def test_a_row_with_a_missing_operand_is_refused_when_the_model_is_built() -> None:
    class Forgetful(Cube):
        def lower(self, tape: Lowering, *xs: Location) -> Location:
            y = tape.output()
            tape.emit(cube, x=xs[0], y=y)
            return y

    try:
        with pytest.raises(TypeError, match=r"cube.*missing or unknown operands \['n'\]"):
            Sequential(Input(3), Forgetful()).stream()
    finally:
        REGISTRY.pop("Forgetful")


_OWN_SCRIPT = """
from __future__ import annotations
import numpy as np, streamrnn as s
from streamrnn.kernels.tape import elementwise
from streamrnn.ops import Op

@elementwise
def mine(x):
    return x * 2.0

class Mine(Op):
    def output_shape(self, *shapes):
        return shapes[0]
    def lower(self, tape, *xs):
        y = tape.output()
        tape.emit(mine, x=xs[0], y=y, n=y.size)
        return y

print(s.Sequential(s.Input(1), Mine()).stream().step(np.ones(1, np.float32)))
"""


@pytest.fixture
def own_cache(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "own" / cache_folder().name
    folder.mkdir(parents=True)
    for file in cache_folder().glob("tape.*"):  # the loop takes longest to compile
        shutil.copy(file, folder)
    return {"STREAMRNN_CACHE_DIR": str(folder.parent)}


def test_a_users_kernel_in_a_file_is_compiled_anew_when_the_file_changes(
    tmp_path: Path, own_cache: dict[str, str]
) -> None:
    script = tmp_path / "script.py"
    run = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    for factor in ("2.0", "3.0", "2.0"):
        script.write_text(_OWN_SCRIPT.replace("x * 2.0", f"x * {factor}"))
        assert _output(run, **own_cache) == f"[{factor[0]}.]"


def test_a_users_kernel_without_a_file_is_never_a_stale_one(own_cache: dict[str, str]) -> None:
    """As typed into an interpreter or a notebook: there is no file to tell that it has changed."""
    for factor in ("2.0", "3.0", "5.0"):
        code = _OWN_SCRIPT.replace("x * 2.0", f"x * {factor}")
        assert _output(code, **own_cache) == f"[{factor[0]}.]"


def test_two_kernels_of_one_name_in_two_files_are_two_kernels(
    tmp_path: Path, own_cache: dict[str, str]
) -> None:
    """``a/filters.py`` and ``b/filters.py`` may both have a kernel ``mine``."""
    for folder, factor in (("a", "2.0"), ("b", "3.0")):
        (tmp_path / folder).mkdir()
        text = _OWN_SCRIPT.replace("x * 2.0", f"x * {factor}")
        (tmp_path / folder / "filters.py").write_text(text)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import filters"
    for _ in range(2):
        assert _output(code, str(tmp_path / "a"), **own_cache) == "[2.]"
        assert _output(code, str(tmp_path / "b"), **own_cache) == "[3.]"
