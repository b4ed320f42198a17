"""ONNX's own tests of its operators, run through the importer: what passes, what is refused.

``python tests/conformance.py`` prints the numbers, and makes docs/onnx-conformance.md if told to
``--write``.

A case becomes a stream by fixing what is no float32 number with ``constants``: first every float32
input is a frame, then, where an operator wants its weights fixed, the first one only. Each data set
is one step from the beginning. Where the operator takes other numbers, they come as float32 and are
cast.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "onnx-conformance.md"
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "tests")]

import onnx  # noqa: E402

import streamrnn as sr  # noqa: E402
from node_cases import node_cases  # noqa: E402
from streamrnn.importers.onnx.known import COMPUTED  # noqa: E402
from streamrnn.importers.onnx.node import OPERATORS, OVER_TIME  # noqa: E402

__all__ = ["PAGE", "Outcome", "outcomes", "page", "read_page"]

TRAINING = ("Adagrad", "Adam", "Gradient", "Momentum", "SoftmaxCrossEntropyLoss",
            "NegativeLogLikelihoodLoss")  # fmt: skip
"""Operators for training, which have no place in a stream."""
STATEFUL = ("CausalConvWithState", "LinearAttention")


@dataclass(frozen=True)
class Outcome:
    """What became of a case: ``passed``, ``refused``, ``constant`` or ``wrong``, and why."""

    case: str
    operator: str
    kind: str
    reason: str = ""


def supported(case) -> bool:
    """Whether the importer says that it knows the case's operator."""
    names = {n.op_type for n in case.model.graph.node}
    known = OPERATORS.keys() | OVER_TIME.keys() | COMPUTED
    return bool(names & known) and not names & set(TRAINING)


def operator_of(case) -> str:
    """Return the operator that a case is about."""
    kinds = [n.op_type for n in case.model.graph.node]
    return kinds[0] if len(set(kinds)) == 1 else next(
        (k for k in kinds if k.lower() in case.name.replace("_", "")), kinds[0]
    )  # fmt: skip


def run(case, path: Path) -> Outcome:
    """Run a case."""
    about = operator_of(case)
    names = [i.name for i in case.model.graph.input]
    try:
        given = [dict(zip(names, map(np.asarray, d[0]), strict=True)) for d in case.data_sets]
    except (TypeError, ValueError):  # sequences, optional inputs
        given = []
    if not given or any(x.dtype == object for x in given[0].values()):
        return _refused_or(case.model, case, about, path, {}, None)
    arrays = given[0]
    singles = [n for n, x in arrays.items() if x.dtype == np.float32]
    doubles = [n for n, x in arrays.items() if x.dtype in (np.float32, np.float64)]
    first = [n for n, x in arrays.items() if x.dtype.name in NUMBERS][:1]
    attempts = [singles, singles[:1], doubles, doubles[:1], first]
    tried, outcome = [], None
    for symbolic in attempts:
        if not symbolic or symbolic in tried:
            continue
        tried.append(symbolic)
        model = _from_floats(case.model, [n for n in symbolic if n not in singles], arrays)
        constants = {n: x for n, x in arrays.items() if n not in symbolic}
        made = _refused_or(model, case, about, path, constants, given)
        if made.kind != "refused":
            return made
        outcome = outcome or made
    if outcome is None or outcome.reason.endswith("this operator is not supported"):
        fixed = _refused_or(case.model, case, about, path, arrays, None)
        return fixed if outcome is None or fixed.kind == "constant" else outcome
    return outcome


NUMBERS = ("bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16")


def _from_floats(model, names, arrays):
    """Return a model whose inputs of these names are float32, and cast to what they were."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for name in names:
        value = next(i for i in changed.graph.input if i.name == name)
        kind, value.type.tensor_type.elem_type = value.type.tensor_type.elem_type, 1
        for node in changed.graph.node:
            node.input[:] = [f"{name}/cast" if n == name else n for n in node.input]
        cast = onnx.helper.make_node("Cast", [name], [f"{name}/cast"], to=kind)
        changed.graph.node.insert(0, cast)
    return changed


def _refused_or(proto, case, about, path, constants, given) -> Outcome:
    """Load a case and run it; return the refusal where it is refused."""
    onnx.save(proto, path)
    arrays = given[0] if given else {}
    free = [n for n in arrays if n not in constants]
    states = None if about in STATEFUL and any("past" in n for n in free) else {}
    try:
        shapes = {n: arrays[n].shape for n in free}
        model = sr.load(path, constants=constants, states=states, shapes=shapes)
    except sr.FileError as error:
        reason = str(error).removeprefix(f"{path}: ")
        if given is None and ("does not depend on any input" in reason or "at least one" in reason):
            return Outcome(case.name, about, "constant")
        return Outcome(case.name, about, "refused", reason)
    if given is None:
        return Outcome(case.name, about, "constant")
    inputs, results = model.graph().inputs, list(model.graph().outputs)
    wanted_names = [o.name for o in case.model.graph.output]
    stream = model.stream(on_nonfinite="propagate")
    for arrays, (_, wanted) in zip(given, case.data_sets, strict=True):
        stream.reset()
        frames = tuple(arrays[n].astype(np.float32).reshape(v.shape) for n, v in inputs.items())
        if states is None:
            stream.state.update({n: arrays[n] for n in stream.state if n in arrays})
        got = stream.step(frames if len(frames) > 1 else frames[0])
        made = dict(zip(results, got if isinstance(got, tuple) else (got,), strict=True))
        if states is None:
            made |= {n.replace("past", "present"): x for n, x in stream.state.items()}
        for name, b in zip(wanted_names, map(np.asarray, wanted), strict=True):
            if name not in made:
                return Outcome(case.name, about, "wrong", f"{name} does not come out")
            a, b = made[name], b.astype(np.float64)
            if a.size != b.size:
                return Outcome(case.name, about, "wrong", f"{name}: shape {a.shape}")
            rtol, atol = max(case.rtol, 1e-5), max(case.atol, 1e-5)
            if not np.allclose(a.reshape(b.shape), b, rtol, atol, equal_nan=True):
                apart = np.abs(a.reshape(b.shape) - b).max()
                return Outcome(case.name, about, "wrong", f"{name} is off by {apart:.3g}")
    return Outcome(case.name, about, "passed")


@functools.cache
def outcomes() -> tuple[Outcome, ...]:
    """Return the outcome of every case whose operator the importer knows."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for case in node_cases():
            if case.model is None or "expanded" in case.name or not supported(case):
                continue
            try:
                found.append(run(case, Path(folder) / "m.onnx"))
            except Exception as error:  # anything else than a refusal
                found.append(Outcome(case.name, operator_of(case), "wrong", repr(error)))
    return tuple(sorted(found, key=lambda o: (o.operator, o.case)))


def _short(reason: str) -> str:
    """Return a reason without what differs from case to case."""
    reason = re.sub(r"^(node [^:]*\): )+", "", reason)
    return reason.replace("|", "/").split("; if it never")[0]


def page() -> str:
    """Return the page of docs."""
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    reasons: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for o in outcomes():
        rows[o.operator][o.kind] += 1
        if o.kind != "passed":
            reasons[o.operator, _short(o.reason) or "nothing in it depends on a frame"].append(
                o.case
            )
    total = sum(rows.values(), collections.Counter())
    lines = [
        "# ONNX's own tests, case by case",
        "",
        f"The tests of its operators that come with onnx {onnx.__version__}, run through "
        "`streamrnn.load` and one step",
        "of a stream. Made by `python tests/conformance.py --write`; a test holds it against the "
        "present results.",
        "",
        f"{total['passed']} cases pass, {total['refused']} are refused with a reason, "
        f"{total['constant']} have no float32 input, so that nothing",
        f"is left to stream. {total['wrong']} are wrong. A case that passes gives ONNX's expected "
        "numbers within its tolerance.",
        "",
        "| operator | passed | refused | constant |",
        "|---|--:|--:|--:|",
    ]
    for name, counts in sorted(rows.items()):
        numbers = (counts[kind] or "" for kind in ("passed", "refused", "constant"))
        lines.append(f"| `{name}` | {' | '.join(map(str, numbers))} |")
    lines += ["", "## Passed", ""]
    passed = [o.case.removeprefix("test_") for o in outcomes() if o.kind == "passed"]
    lines += _wrapped(" ".join(passed))
    lines += ["", "## Refused, and why", ""]
    for (name, reason), cases in sorted(reasons.items()):
        if reason == "nothing in it depends on a frame":
            continue
        short = ", ".join(c.removeprefix("test_") for c in cases[:3])
        more = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
        lines.append(f"- `{name}`: {reason} ({short}{more})")
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int = 100) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    return [*lines, line]


def read_page() -> tuple[str, set[str]]:
    """Return the onnx version of the page, and the cases that it says pass."""
    text = PAGE.read_text(encoding="utf-8")
    version = re.search(r"come with onnx (\S+),", text)[1]
    section = text.partition("## Passed\n")[2].partition("\n## ")[0]
    return version, set(section.split())


def main() -> None:
    """Print the table, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("operators", nargs="*", help="print each case of these")
    options = parser.parse_args()
    for o in outcomes():
        if o.kind == "wrong" or o.operator in options.operators:
            print(f"{o.kind:8} {o.case}: {o.reason}")
    counts = collections.Counter(o.kind for o in outcomes())
    print(", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
    if options.write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
        print(f"Written: {os.path.relpath(PAGE)}")


if __name__ == "__main__":
    main()
