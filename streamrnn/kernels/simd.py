"""Vectors for numba: the one module that knows about SIMD.

A kernel sees a vector as an ordinary value: ``load``, ``store``, ``splat``, ``fma``, ``vmin``,
``vmax``, ``select_lt`` and the operators ``+ - * /``. LLVM legalises the vector for the machine
(AVX-512, AVX2, NEON, …). How many lanes a vector has, and whether fused multiply-add exists, are
properties of the :class:`Target` that a kernel is being compiled for; nothing hard-codes them.

No fast-math flag is ever set: sums keep the order in which they are written, which is what makes
results independent of how a stream is cut into blocks, and NaN stays NaN.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

if TYPE_CHECKING:  # what a kernel's helpers mean to a reader and to mypy
    Pointer = Any
    Vector = Any

__all__ = [
    "Target",
    "as_bfloat16",
    "as_bytes",
    "as_float16",
    "as_floats",
    "as_ints",
    "as_longs",
    "at",
    "bits",
    "byte_forms",
    "call",
    "dot4",
    "exponent",
    "floats",
    "fma",
    "hmax",
    "hmin",
    "host",
    "hsum",
    "ints",
    "lanes",
    "leading",
    "load",
    "mantissa",
    "no_sum",
    "power2",
    "power2_half",
    "power2_rest",
    "prefetch",
    "quarter_turns",
    "select_eq",
    "select_le",
    "select_lt",
    "splat",
    "store",
    "store_bytes",
    "truths",
    "vabs",
    "vceil",
    "vfloor",
    "vmax",
    "vmin",
    "vround",
    "vsqrt",
    "vtrunc",
    "within_quarter",
]


@dataclass(frozen=True)
class Target:
    """What kernels are compiled for.

    Parameters
    ----------
    lanes : int
        float32 values in one vector register: 16 (AVX-512), 8 (AVX2), 4 (SSE, NEON).
    fma : bool
        Whether the CPU has a fused multiply-add; without it, ``fma`` is a multiply and an add.
    bytes : str
        How bytes are multiplied: ``"vnni"`` (x86) and ``"dot"`` (Arm), four products and their sum
        at once; ``"pairs"``, two products of 16 bits and their sum; ``"plain"``, one product after
        another.
    ahead : int
        Floats by which weights are best asked for before they are needed; 0 where the CPU asks by
        itself as well or better.
    half : bool
        Whether the CPU can widen float16; otherwise it is done with integers.
    """

    lanes: int
    fma: bool
    bytes: str = "plain"
    ahead: int = 0
    half: bool = False


def byte_forms(features: Mapping[str, bool], lanes: int) -> tuple[str, ...]:
    """Return how a CPU with these features can multiply bytes, the fastest first."""
    vnni = features.get("avx512vnni") and features.get("avx512vl")
    vnni = vnni or (features.get("avxvnni") and lanes <= 8)
    dot = features.get("dotprod") and lanes == 4
    pairs = features.get({4: "sse2", 8: "avx2", 16: "avx512bw"}[lanes])
    found = {"vnni": vnni, "dot": dot, "pairs": pairs, "plain": True}
    return tuple(form for form, there in found.items() if there)


@cache
def host() -> Target:
    """Return the target of this machine.

    ``STREAMRNN_LANES`` (4, 8 or 16) overrides the width, ``STREAMRNN_BYTES`` (vnni, dot, pairs or
    plain) the way in which bytes are multiplied.

    Raises
    ------
    ValueError
        If ``STREAMRNN_LANES`` is something else, or this machine cannot do ``STREAMRNN_BYTES``.
    """
    features = llvm.get_host_cpu_features()
    arm = "neon" in features
    fma = arm or bool(features.get("fma"))
    widest = 16 if features.get("avx512f") else 8 if features.get("avx2") else 4
    wanted = os.environ.get("STREAMRNN_LANES", "")
    if wanted and wanted not in ("4", "8", "16"):
        raise ValueError(f"STREAMRNN_LANES must be 4, 8 or 16, got {wanted!r}")
    lanes = int(wanted) if wanted else widest
    forms = byte_forms(features, lanes)
    form = os.environ.get("STREAMRNN_BYTES", "") or forms[0]
    if form not in forms:
        raise ValueError(f"STREAMRNN_BYTES must be one of {', '.join(forms)} here, got {form!r}")
    # An EPYC with Zen 5's bandwidth reads its L2 cache at 148 GB/s so, and at 107 without. Zen 4
    # gains nothing there, and loses where weights come from the L3 cache: 79 GB/s instead of 96.
    ahead = 1024 if llvm.get_host_cpu_name() == "znver5" else 0
    return Target(lanes, fma, form, ahead, arm or bool(features.get("f16c")))


class VectorType(types.Type):  # type: ignore[misc]
    """numba's type of a float32 vector."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"f32x{width}")

    @property
    def ir(self) -> ir.VectorType:
        return ir.VectorType(ir.FloatType(), self.width)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, fe_type: VectorType) -> None:
        super().__init__(manager, fe_type, fe_type.ir)


class IntegersType(types.Type):  # type: ignore[misc]
    """numba's type of a vector of int32."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"i32x{width}")

    @property
    def ir(self) -> ir.VectorType:
        return ir.VectorType(ir.IntType(32), self.width)


@register_model(IntegersType)
class _IntegersModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, fe_type: IntegersType) -> None:
        super().__init__(manager, fe_type, fe_type.ir)


class NarrowType(types.Type):  # type: ignore[misc]
    """numba's type of a float16 or bfloat16: two bytes in memory, widened when loaded."""


@register_model(NarrowType)
class _NarrowModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, fe_type: NarrowType) -> None:
        super().__init__(manager, fe_type, ir.IntType(16))


FLOAT16, BFLOAT16 = NarrowType("float16"), NarrowType("bfloat16")


def operation(function: Callable[..., Any]) -> Any:
    """Make numba's ``intrinsic`` of a function that emits LLVM instructions."""
    return intrinsic(function)


def _vector() -> VectorType:
    return VectorType(host().lanes)


def _splat(builder: Any, width: int, scalar: Any) -> Any:
    vector = ir.VectorType(scalar.type, width)
    undefined = ir.Constant(vector, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, zeros)


def _constant(width: int, value: float | int, kind: Any) -> Any:
    return ir.Constant(ir.VectorType(kind, width), [value] * width)


def _named(builder: Any, name: str, args: list[Any]) -> Any:
    kind = args[0].type
    full = f"{name}.v{kind.count}f{64 if kind.element == ir.DoubleType() else 32}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(args)), full
    )
    return builder.call(function, args)


def _is_pointer(kind: Any) -> bool:
    return isinstance(kind, types.CPointer)


_I32 = ir.IntType(32)


@operation
def lanes(typing_context: Any) -> Any:
    """Lanes of a vector on the target: a constant at compile time."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), host().lanes)

    return types.intp(), codegen


@operation
def load(typing_context: Any, pointer: Any, index: Any) -> Any:
    """Vector at ``pointer[index:index + lanes]``, widened to float32; it need not be aligned."""
    if not _is_pointer(pointer):
        return None
    vector = _vector()

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.args[0].dtype
        narrow = isinstance(kind, NarrowType)
        stored = ir.VectorType(ir.IntType(16), vector.width) if narrow else vector.ir
        value = builder.load(builder.bitcast(builder.gep(args[0], [args[1]]), stored.as_pointer()))
        value.align = 2 if narrow else 4
        return _widened(builder, value, kind) if narrow else value

    return vector(pointer, types.intp), codegen


def _widened(builder: Any, bits: Any, kind: NarrowType) -> Any:
    """Return float32 numbers, exactly those of 16 bits each; none is infinite or NaN."""
    width = bits.type.count
    single, integers = ir.VectorType(ir.FloatType(), width), ir.VectorType(_I32, width)
    if kind == FLOAT16 and host().half:
        half = ir.VectorType(ir.HalfType(), width)
        return builder.fpext(builder.bitcast(bits, half), single)
    whole = builder.zext(bits, integers)
    if kind == BFLOAT16:  # the upper half of a float32
        return builder.bitcast(builder.shl(whole, _constant(width, 16, _I32)), single)
    sign = builder.shl(
        builder.and_(whole, _constant(width, 0x8000, _I32)), _constant(width, 16, _I32)
    )
    size = builder.shl(
        builder.and_(whole, _constant(width, 0x7FFF, _I32)), _constant(width, 13, _I32)
    )
    # The exponent of a float16 counts from 15, that of a float32 from 127.
    power = _constant(width, 2.0**112, ir.FloatType())
    size = builder.bitcast(builder.fmul(builder.bitcast(size, single), power), integers)
    return builder.bitcast(builder.or_(size, sign), single)


@operation
def store(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write a vector to ``pointer[index:index + lanes]``; no alignment is required."""
    if not (_is_pointer(pointer) and isinstance(value, VectorType)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.bitcast(builder.gep(args[0], [args[1]]), value.ir.as_pointer())
        instruction = builder.store(args[2], address)
        instruction.align = 4
        return context.get_dummy_value()

    return types.void(pointer, types.intp, value), codegen


@operation
def at(typing_context: Any, pointer: Any, offset: Any) -> Any:
    """Pointer to ``pointer[offset]``."""
    if not _is_pointer(pointer):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), codegen


@operation
def prefetch(typing_context: Any, pointer: Any, offset: Any) -> Any:
    """Ask for the cache line of ``pointer[offset]``, which need not be valid memory."""
    if not _is_pointer(pointer):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        line = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [line.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = _I32(0), _I32(3), _I32(1)
        builder.call(function, [line, read, keep, data])
        return context.get_dummy_value()

    return types.void(pointer, types.intp), codegen


@operation
def splat(typing_context: Any, scalar: Any) -> Any:
    """Vector with every lane equal to ``scalar``."""
    if not isinstance(scalar, (types.Float, types.Integer)):
        return None
    vector = _vector()

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, vector.width, args[0])

    return vector(types.float32), codegen


@operation
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``, rounded once where the target can."""
    kinds = (a, b, c)
    if not any(isinstance(k, VectorType) for k in kinds):
        return None
    vector = _vector()

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if host().fma:
            return _named(builder, "llvm.fma", list(args))
        return builder.fadd(builder.fmul(args[0], args[1]), args[2])

    return vector(vector, vector, vector), codegen


# Bytes: exact products of uint8 and int8, summed in int32.


def _integers() -> IntegersType:
    return IntegersType(host().lanes)


@operation
def no_sum(typing_context: Any) -> Any:
    """Vector of int32 zeros: a sum to begin with."""
    vector = _integers()

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(vector.ir, None)

    return vector(), codegen


@operation
def dot4(typing_context: Any, total: Any, w: Any, w_at: Any, x: Any, x_at: Any) -> Any:
    """Add to lane i of ``total`` the products ``w[w_at + 4 i + j] * x[x_at + j]``, j from 0 to 3.

    ``w`` and ``x`` point to bytes: int8 and uint8. Exact, whatever the target has for it. Arm's
    ``sdot`` multiplies int8 only, so there it is ``x - 128``; :func:`without_zero` makes up for it.
    """
    if not (isinstance(total, IntegersType) and _is_pointer(w) and _is_pointer(x)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width = sig.return_type.width
        vector = sig.return_type.ir
        address = builder.gep(args[1], [args[2]])
        weights = builder.load(builder.bitcast(address, vector.as_pointer()))
        weights.align = 1
        four = builder.bitcast(builder.gep(args[3], [args[4]]), _I32.as_pointer())
        same = builder.load(four)
        same.align = 1
        same = _splat(builder, width, same)
        if host().bytes == "vnni":
            name = f"llvm.x86.avx512.vpdpbusd.{32 * width}"
            kind = ir.FunctionType(vector, [vector] * 3)
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, [args[0], same, weights])
        sums = args[0]
        if host().bytes == "dot":
            same = builder.xor(same, _constant(width, 0x80808080, _I32))  # x - 128 in each byte
            if width == 4 and "neon" in llvm.get_host_cpu_features():
                quads = ir.VectorType(ir.IntType(8), 16)
                kind = ir.FunctionType(vector, [vector, quads, quads])
                name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
                function = cgutils.get_or_insert_function(builder.module, kind, name)
                both = [builder.bitcast(v, quads) for v in (same, weights)]
                return builder.call(function, [sums, *both])
        if host().bytes == "pairs":
            halves = ir.VectorType(ir.IntType(16), 2 * width)
            eight = _constant(2 * width, 8, ir.IntType(16))
            a, b = builder.bitcast(same, halves), builder.bitcast(weights, halves)
            low_a = builder.and_(a, _constant(2 * width, 255, ir.IntType(16)))
            low_b = builder.ashr(builder.shl(b, eight), eight)
            name = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[width]
            kind = ir.FunctionType(vector, [halves] * 2)
            function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}")
            for pair in (low_a, low_b), (builder.lshr(a, eight), builder.ashr(b, eight)):
                sums = builder.add(sums, builder.call(function, pair))
            return sums
        for j in range(4):
            up, down = (_constant(width, n, _I32) for n in (24 - 8 * j, 24))
            signed = host().bytes == "dot"
            a = (builder.ashr if signed else builder.lshr)(builder.shl(same, up), down)
            b = builder.ashr(builder.shl(weights, up), down)
            sums = builder.add(sums, builder.mul(a, b))
        return sums

    return total(total, w, types.intp, x, types.intp), codegen


@operation
def without_zero(typing_context: Any, a: Any, b: Any, columns: Any, index: Any, zero: Any) -> Any:
    """Vector of float32 ``a + b - zero * columns[index:index + lanes]``, all of them int32."""
    if not (isinstance(a, IntegersType) and isinstance(b, IntegersType) and _is_pointer(columns)):
        return None
    result = VectorType(a.width)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.args[0].ir
        address = builder.gep(args[2], [args[3]])
        sums = builder.load(builder.bitcast(address, kind.as_pointer()))
        sums.align = 4
        zero = builder.trunc(args[4], _I32)
        if host().bytes == "dot":  # its bytes are 128 less
            zero = builder.sub(zero, _I32(128))
        zero_point = _splat(builder, sig.args[0].width, zero)
        both = builder.add(args[0], args[1])
        exact = builder.sub(both, builder.mul(zero_point, sums))
        return builder.sitofp(exact, result.ir)

    return result(a, b, columns, types.intp, types.int64), codegen


@operation
def store_bytes(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write whole numbers from 0 to 255, lane by lane, as bytes."""
    if not (_is_pointer(pointer) and isinstance(value, VectorType)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width = sig.args[2].width
        whole = builder.fptosi(args[2], ir.VectorType(_I32, width))
        small = builder.trunc(whole, ir.VectorType(ir.IntType(8), width))
        address = builder.gep(args[0], [args[1]])
        instruction = builder.store(small, builder.bitcast(address, small.type.as_pointer()))
        instruction.align = 1
        return context.get_dummy_value()

    return types.void(pointer, types.intp, value), codegen


def _unary(name: str) -> Any:
    @operation
    def function(typing_context: Any, a: Any) -> Any:
        if not isinstance(a, VectorType):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _named(builder, name, list(args))

        return a(a), codegen

    return function


vsqrt = _unary("llvm.sqrt")
vabs = _unary("llvm.fabs")
vfloor = _unary("llvm.floor")
vceil = _unary("llvm.ceil")
vtrunc = _unary("llvm.trunc")
vround = _unary("llvm.rint")  # to the nearest whole number, halves to the even one


def _clamp(comparison: str) -> Any:
    @operation
    def function(typing_context: Any, x: Any, bound: Any) -> Any:
        if not isinstance(x, VectorType):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            beyond = builder.fcmp_ordered(comparison, args[0], args[1])
            return builder.select(beyond, args[1], args[0])

        return x(x, x), codegen

    return function


# llvm.minnum and llvm.maxnum swallow a NaN; these pass the NaN of their first argument on.
vmin = _clamp(">")
vmax = _clamp("<")


def _select(comparison: str) -> Any:
    @operation
    def function(typing_context: Any, a: Any, b: Any, then: Any, other: Any) -> Any:
        if not isinstance(then, VectorType):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(comparison, args[0], args[1]), *args[2:])

        return then(then, then, then, then), codegen

    return function


# Lane by lane `then if a < b else other` (<=, ==); a NaN in a or b chooses `other`.
select_lt = _select("<")
select_le = _select("<=")
select_eq = _select("==")

# pi / 2 in three parts, of which n times the first two is exact for n below 2**20.
_HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)


def _quarters(builder: Any, x: Any, width: int) -> tuple[Any, Any]:
    """Return x in float64, and the nearest whole number of quarter turns."""
    double = ir.VectorType(ir.DoubleType(), width)
    wide = builder.fpext(x, double)
    turns = builder.fmul(wide, ir.Constant(double, [2 / math.pi] * width))
    return wide, _named(builder, "llvm.rint", [turns])


@operation
def quarter_turns(typing_context: Any, x: Any) -> Any:
    """Quarter turns of an angle in radians, rounded to a whole number n, as n modulo 4."""
    if not isinstance(x, VectorType):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width = sig.return_type.width
        _, n = _quarters(builder, args[0], width)
        four = ir.Constant(n.type, [4.0] * width)
        whole = _named(builder, "llvm.floor", [builder.fdiv(n, four)])
        return builder.fptrunc(builder.fsub(n, builder.fmul(whole, four)), sig.return_type.ir)

    return x(x), codegen


@operation
def within_quarter(typing_context: Any, x: Any) -> Any:
    """What is left of an angle, in radians, without its quarter turns; computed in float64."""
    if not isinstance(x, VectorType):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width = sig.return_type.width
        rest, n = _quarters(builder, args[0], width)
        for part in _HALF_PI:
            rest = builder.fsub(rest, builder.fmul(n, ir.Constant(n.type, [part] * width)))
        return builder.fptrunc(rest, sig.return_type.ir)

    return x(x), codegen


def _folded(combine: Callable[[Any, Any, Any], Any]) -> Any:
    """Make an operation that folds a vector: halves are combined until one value is left."""

    @operation
    def function(typing_context: Any, x: Any) -> Any:
        if not isinstance(x, VectorType):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value, width = args[0], sig.args[0].width
            while width > 1:
                width //= 2
                undefined = ir.Constant(value.type, ir.Undefined)
                picks = ir.VectorType(_I32, width)
                low, high = (
                    builder.shuffle_vector(value, undefined, ir.Constant(picks, list(lanes)))
                    for lanes in (range(width), range(width, 2 * width))
                )
                value = combine(builder, low, high)
            return builder.extract_element(value, ir.Constant(_I32, 0))

        return types.float32(x), codegen

    return function


def _lower(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _higher(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


hsum = _folded(lambda builder, a, b: builder.fadd(a, b))
# Of lanes that hold no NaN.
hmin, hmax = _folded(_lower), _folded(_higher)


@operation
def leading(typing_context: Any, x: Any, n: Any) -> Any:
    """Return x with zeros in the place of all but its first n lanes."""
    if not isinstance(x, VectorType):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width = sig.args[0].width
        kind = ir.IntType(64)
        place = ir.Constant(ir.VectorType(kind, width), list(range(width)))
        inside = builder.icmp_signed("<", place, _splat(builder, width, args[1]))
        return builder.select(inside, args[0], _constant(width, 0.0, ir.FloatType()))

    return x(x, types.intp), codegen


def _bits(make: Callable[[Any, Any, int], Any]) -> Any:
    @operation
    def function(typing_context: Any, x: Any) -> Any:
        if not isinstance(x, VectorType):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            width = sig.return_type.width
            integers = ir.VectorType(_I32, width)
            return make(builder, builder.bitcast(args[0], integers), width)

        return x(x), codegen

    return function


# log splits x = m * 2**e with m in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) first
# moves the cut between two exponents there.
_SQRT_HALF_BITS = 0x3F3504F3


def _exponent(builder: Any, bits: Any, width: int) -> Any:
    shifted = builder.sub(bits, _constant(width, _SQRT_HALF_BITS, _I32))
    power = builder.ashr(shifted, _constant(width, 23, _I32))
    return builder.sitofp(power, ir.VectorType(ir.FloatType(), width))


def _mantissa(builder: Any, bits: Any, width: int) -> Any:
    shifted = builder.sub(bits, _constant(width, _SQRT_HALF_BITS, _I32))
    power = builder.and_(shifted, _constant(width, 0xFF800000, _I32))
    return builder.bitcast(builder.sub(bits, power), ir.VectorType(ir.FloatType(), width))


def _low_bits(builder: Any, bits: Any, width: int) -> Any:
    shifted = builder.shl(bits, _constant(width, 23, _I32))
    return builder.bitcast(shifted, ir.VectorType(ir.FloatType(), width))


def _half_of_low_bits(builder: Any, bits: Any, width: int) -> Any:
    return _low_bits(builder, builder.lshr(bits, _constant(width, 1, _I32)), width)


def _rest_of_low_bits(builder: Any, bits: Any, width: int) -> Any:
    half = builder.lshr(bits, _constant(width, 1, _I32))
    return _low_bits(builder, builder.sub(bits, half), width)


# e and m of x = m * 2**e, for normal x > 0.
exponent = _bits(_exponent)
mantissa = _bits(_mantissa)
# A whole number b stands in the lowest bits of x (x = 1.5 * 2**23 + b): the float32 with the
# exponent bits b, that is 2**(b - 127); and two such, whose exponent bits add up to b.
power2 = _bits(_low_bits)
power2_half = _bits(_half_of_low_bits)
power2_rest = _bits(_rest_of_low_bits)


def _as_vector(builder: Any, vector: VectorType, kind: Any, value: Any) -> Any:
    if isinstance(kind, VectorType):
        return value
    if isinstance(kind, types.Integer):
        value = builder.sitofp(value, ir.FloatType())
    elif kind == types.float64:
        value = builder.fptrunc(value, ir.FloatType())
    return _splat(builder, vector.width, value)


def _operator(symbol: Any, instruction: str) -> None:
    @infer_global(symbol)
    class Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if any(isinstance(a, VectorType) for a in args) and all(
                isinstance(a, (VectorType, types.Float, types.Integer)) for a in args
            ):
                return signature(_vector(), *args)
            return None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (
            _as_vector(builder, sig.return_type, kind, value)
            for kind, value in zip(sig.args, args, strict=True)
        )
        return getattr(builder, instruction)(a, b)

    for left, right in (
        (VectorType, VectorType),
        (VectorType, types.Number),
        (types.Number, VectorType),
    ):
        lower_builtin(symbol, left, right)(lower)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_symbol, _instruction)


def _pointer_to(dtype: Any) -> Any:
    kind = types.CPointer(dtype)

    @operation
    def function(typing_context: Any, address: Any) -> Any:
        if not isinstance(address, types.Integer):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(kind))

        return kind(types.int64), codegen

    return function


# The integer address as a pointer.
floats = _pointer_to(types.float32)
ints = _pointer_to(types.int64)
bits = _pointer_to(types.uint32)
truths = _pointer_to(types.uint8)


@operation
def call(typing_context: Any, address: Any, row: Any, w: Any, s: Any, x: Any, frames: Any) -> Any:
    """Call the kernel at the integer ``address`` with five pointers; it returns nothing."""
    arguments = (row, w, s, x, frames)
    if not (isinstance(address, types.Integer) and all(map(_is_pointer, arguments))):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [a.type for a in args[1:]])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *arguments), codegen


def _reinterpreted(dtype: Any) -> Any:
    kind = types.CPointer(dtype)

    @operation
    def function(typing_context: Any, address: Any) -> Any:
        if not _is_pointer(address):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(kind))

        return kind(address), codegen

    return function


# The same address, read as another type.
as_floats = _reinterpreted(types.float32)
as_ints = _reinterpreted(types.int32)
as_bytes = _reinterpreted(types.uint8)
as_longs = _reinterpreted(types.int64)
as_float16 = _reinterpreted(FLOAT16)
as_bfloat16 = _reinterpreted(BFLOAT16)


def host_description() -> str:
    """Name, features and vector width of this machine: part of the key of the kernel cache."""
    features = cast(str, llvm.get_host_cpu_features().flatten())
    return f"{llvm.get_host_cpu_name()} {features} {host()}"
