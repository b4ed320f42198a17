"""What threads need to work on one thing: atomic numbers, pauses, and calls by address.

Everything here is an instruction of LLVM, which it legalises for the machine: no lock, no system
call, nothing of one operating system.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .simd import operation

__all__ = [
    "add",
    "alone",
    "call_job",
    "call_split",
    "core",
    "give_way",
    "is_alone",
    "pause",
    "read",
    "swap",
    "write",
]

_I64 = ir.IntType(64)
_WORDS = types.CPointer(types.int64)


def _is_words(kind: Any) -> bool:
    return bool(kind == _WORDS)


@operation
def read(typing_context: Any, words: Any, i: Any) -> Any:
    """``words[i]``; what the thread that wrote it had written before is seen from now on."""
    if not _is_words(words):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "acquire", 8)

    return types.int64(words, types.intp), codegen


@operation
def write(typing_context: Any, words: Any, i: Any, value: Any) -> Any:
    """``words[i] = value``; whoever reads it sees all that was written before."""
    if not _is_words(words):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[2], builder.gep(args[0], [args[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


@operation
def add(typing_context: Any, words: Any, i: Any, value: Any) -> Any:
    """``words[i] += value``, undivided; returns what was there before."""
    if not _is_words(words):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), args[2], "seq_cst")

    return types.int64(words, types.intp, types.int64), codegen


@operation
def swap(typing_context: Any, words: Any, i: Any, old: Any, new: Any) -> Any:
    """``words[i] = new`` if it is ``old``, undivided; returns whether it was."""
    if not _is_words(words):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        both = builder.cmpxchg(place, args[2], args[3], "seq_cst", "seq_cst")
        return builder.extract_value(both, 1)

    return types.boolean(words, types.intp, types.int64, types.int64), codegen


@operation
def pause(typing_context: Any) -> Any:
    """Tell the CPU that this thread waits for another one."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        machine = llvm.get_process_triple().split("-")[0]
        if machine in ("x86_64", "i686", "i386"):
            kind, name, hint = ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause", []
        elif machine in ("aarch64", "arm64"):
            i32 = ir.IntType(32)
            kind, name, hint = ir.FunctionType(ir.VoidType(), [i32]), "llvm.aarch64.hint", [i32(1)]
        else:
            return context.get_dummy_value()
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), hint)
        return context.get_dummy_value()

    return types.void(), codegen


@operation
def give_way(typing_context: Any, address: Any) -> Any:
    """Call the function at ``address``, by which a thread offers its core to others."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@operation
def core(typing_context: Any, address: Any) -> Any:
    """Return the number of this thread's core, which the function at ``address`` says."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        number = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return builder.sext(number, _I64)

    return types.int64(types.int64), codegen


@operation
def call_job(typing_context: Any, address: Any, part: Any, parts: Any, argument: Any) -> Any:
    """Call the job at ``address``: ``job(part, parts, argument)``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@operation
def call_split(
    typing_context: Any, address: Any, row: Any, w: Any, s: Any, x: Any, frames: Any, me: Any
) -> Any:
    """Call the split form of a kernel, as the member of a team that ``me`` says."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [a.type for a in args[1:]])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, row, w, s, x, frames, me), codegen


@operation
def alone(typing_context: Any) -> Any:
    """The member of no team: a constant, so what only teams need is not compiled."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(_WORDS), None)

    return _WORDS(), codegen


@operation
def is_alone(typing_context: Any, me: Any) -> Any:
    """Whether ``me`` is :func:`alone`."""
    if not _is_words(me):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.icmp_unsigned("==", args[0], ir.Constant(args[0].type, None))

    return types.boolean(me), codegen
