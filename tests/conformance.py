"""ONNX's own tests of its operators, run through the importer: what passes, what is refused.

``python tests/conformance.py`` prints the numbers, and makes docs/onnx-conformance.md if told to
``--write``.

A case becomes a stream by fixing what is no float32 number with ``constants``: first every float32
input is a frame, then, where an operator wants its weights fixed, the first one only (and the state
``past_…``, which is then fed back). Where the operator takes other numbers, they come as float32
and are cast. Each data set is one step from the beginning. Floats are compared within ONNX's
tolerance, integers exactly. A case is ``constant`` if nothing in it could be a frame: no float goes
in, or only single numbers that the importer wants fixed.
"""

from __future__ import annotations

import argparse
import collections
import datetime
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
    """Whether the importer says that it knows the case's operator, or can write it out."""
    names = {n.op_type for n in case.model.graph.node}
    known = OPERATORS.keys() | OVER_TIME.keys() | COMPUTED
    written = any(map(_has_a_body, case.model.graph.node))
    return (bool(names & known) or written) and not names & set(TRAINING)


def _has_a_body(node) -> bool:
    try:
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    except onnx.defs.SchemaError:
        return False
    return schema.has_function or schema.has_context_dependent_function


def operator_of(case) -> str:
    """Return the operator that a case is about."""
    kinds = [n.op_type for n in case.model.graph.node]
    return kinds[0] if len(set(kinds)) == 1 else next(
        (k for k in kinds if k.lower() in case.name.replace("_", "")), kinds[0]
    )  # fmt: skip


def run(case, path: Path) -> Outcome:
    """Run a case."""
    proto = _of_a_supported_opset(case.model)
    names = [i.name for i in proto.graph.input]
    try:
        given = [dict(zip(names, map(_array, d[0]), strict=True)) for d in case.data_sets]
    except (TypeError, ValueError):  # sequences, optional inputs
        given = [{}]
    arrays = given[0]
    if not arrays or next(iter(arrays.values())).dtype.name not in NUMBERS:
        return _tried(proto, case, path, given, names[:1] if arrays else [])
    singles = [n for n, x in arrays.items() if x.dtype == np.float32]
    doubles = [n for n, x in arrays.items() if x.dtype in (np.float32, np.float64)]
    with_past = [n for n in singles if n == names[0] or "past" in n]
    refused, tried = None, []
    for symbolic in (singles, with_past, singles[:1], doubles, doubles[:1], names[:1]):
        if not symbolic or symbolic in tried:
            continue
        tried.append(symbolic)
        model = _from_floats(proto, [n for n in symbolic if n not in singles])
        made = _tried(model, case, path, given, symbolic)
        if made.kind != "refused":
            return made
        if refused is None or len(symbolic) <= refused[0]:
            refused = len(symbolic), made  # the more is fixed, the more the reason says
    if not doubles or all(x.size == 1 for x in arrays.values()):  # parameters, nothing that flows
        fixed = _tried(proto, case, path, given, [])
        if fixed.kind == "constant":
            return fixed
    return refused[1]


NUMBERS = (
    "bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64",
)  # fmt: skip
"""What a stream may take as float32."""


def _array(x):
    """Return what a data set holds as an array."""
    return onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)


def _of_a_supported_opset(model):
    """Return a model of the oldest operator set that is read, if its operators are as they were."""
    now, oldest = model.opset_import[0].version, 9
    if now >= oldest or any(
        onnx.defs.get_schema(n.op_type, now).since_version
        != onnx.defs.get_schema(n.op_type, oldest).since_version
        for n in model.graph.node
    ):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.opset_import[0].version = oldest
    return changed


def _from_floats(model, names):
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


def _tried(proto, case, path, given, symbolic) -> Outcome:
    """Load a case with all inputs but `symbolic` fixed, and run it."""
    about, arrays = operator_of(case), given[0]
    onnx.save(proto, path)
    states = None if about in STATEFUL and any("past" in n for n in symbolic) else {}
    try:
        model = sr.load(
            path,
            constants={n: x for n, x in arrays.items() if n not in symbolic},
            states=states,
            shapes={n: arrays[n].shape for n in symbolic},
        )
    except sr.FileError as error:
        reason = str(error).removeprefix(f"{path}: ")
        nothing = "does not depend on any input" in reason or "at least one input" in reason
        kind = "constant" if arrays and not symbolic and nothing else "refused"
        return Outcome(case.name, about, kind, reason if kind == "refused" else "")
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
        for name, b in zip(wanted_names, map(_array, wanted), strict=True):
            if name not in made:
                return Outcome(case.name, about, "wrong", f"{name} does not come out")
            wrong = _difference(made[name], b, case)
            if wrong:
                return Outcome(case.name, about, "wrong", f"{name}: {wrong}")
    return Outcome(case.name, about, "passed")


def _difference(a, b, case) -> str:
    """Return how numbers differ from those wanted; integers and truths may not at all."""
    if a.size != b.size:
        return f"shape {a.shape}, expected {b.shape}"
    a, exact = a.reshape(b.shape), b.dtype.kind in "iub"
    b = b.astype(np.float64)
    largest = np.abs(b[np.isfinite(b)]).max(initial=0)
    atol = case.atol + largest * 2.0**-22  # sums in float32: two units in the last place
    same = np.array_equal(a, b) if exact else np.allclose(a, b, case.rtol, atol, equal_nan=True)
    return "" if same else f"off by {np.abs(a - b).max():.3g}"


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


@functools.cache
def unsupported() -> list[str]:
    """Return the operators that have tests, of which the importer knows nothing."""
    cases = [c for c in node_cases() if c.model is not None]
    known = {o.operator for o in outcomes()}
    return sorted({operator_of(c) for c in cases if not supported(c)} - known)


def page(date: str) -> str:
    """Return the page of docs, made on `date`."""
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    reasons: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for o in outcomes():
        rows[o.operator][o.kind] += 1
        if o.kind == "refused":
            reasons[o.operator, _short(o.reason)].append(o.case.removeprefix("test_"))
    total = sum(rows.values(), collections.Counter())
    lines = [
        "# ONNX's own tests, case by case",
        "",
        f"The tests of its operators that come with onnx {onnx.__version__}, run through "
        "`streamrnn.load` and one step",
        f"of a stream on {date}. Made by `python tests/conformance.py --write`; a test holds it "
        "against the",
        "present results.",
        "",
        f"{total['passed']} cases pass: they give ONNX's expected numbers within its tolerance, "
        f"integers exactly.",
        f"{total['refused']} are refused when they are loaded, for the reason below. "
        f"{total['constant']} are constant: nothing in them can be a frame.",
        f"{total['wrong']} are wrong.",
        "",
        "| operator | passed | refused | constant |",
        "|---|--:|--:|--:|",
    ]
    for name, counts in sorted(rows.items()):
        numbers = (counts[kind] or "" for kind in ("passed", "refused", "constant"))
        lines.append(f"| `{name}` | {' | '.join(map(str, numbers))} |")
    for kind in ("passed", "constant"):
        names = [o.case.removeprefix("test_") for o in outcomes() if o.kind == kind]
        lines += ["", f"## {kind.capitalize()}", "", *_wrapped(" ".join(names))]
    lines += ["", "## Refused, and why", ""]
    for (name, reason), cases in sorted(reasons.items()):
        lines.append(f"- `{name}`: {reason} ({', '.join(cases)})")
    lines += ["", "## Not supported at all", "", *_wrapped(", ".join(unsupported()))]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int = 100) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    return [*lines, line]


def read_page() -> tuple[str, str, set[str]]:
    """Return the page's onnx version and date, and the cases that it says pass."""
    text = PAGE.read_text(encoding="utf-8")
    version = re.search(r"come with onnx (\S+),", text)[1]
    date = re.search(r"of a stream on (\S+)\.", text)[1]
    section = text.partition("## Passed\n")[2].partition("\n## ")[0]
    return version, date, set(section.split())


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
        PAGE.write_text(page(datetime.date.today().isoformat()), encoding="utf-8")
        print(f"Written: {os.path.relpath(PAGE)}")


if __name__ == "__main__":
    main()
