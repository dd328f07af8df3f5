"""Float32 vectors inside Numba kernels: `load`, arithmetic, `exp`, reductions over lane groups, `store`.

LLVM does not turn the scattered reads and writes of a lattice filter into vector code by itself: plain loops
take 2.5 times as long (`benchmarks/crf_vectors.py`), twice the speed of pydensecrf instead of five times. It
compiles explicit vector types very well, to whatever registers the machine has. So this module gives Numba
vector types, a few float32 side by side, and the operations on them that the dense CRF and the random walk
need. All of it is inlined into the kernels; nothing here is called from Python.

A kernel says how many lanes it works with by the *length of a tuple* that it gets as an argument, such as
`lanes(8)`: a tuple's length is part of its type, so that Numba compiles one version for each.

The module uses Numba's and llvmlite's extension interfaces, which may change with any minor version. It was
tested with `TESTED`, to which `setup.py` bounds the installation. With other versions a kernel of all
operations is compiled and checked at import, and a failure says what to install.
"""

import operator
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.extending import intrinsic, models, overload, register_jitable, register_model

TESTED = {"numba": ((0, 61), (0, 68)), "llvmlite": ((0, 44), (0, 50))}  # first and last minor version


def lanes(count: int) -> tuple[int, ...]:
    """The tuple that stands for vectors of `count` lanes: 4, or a multiple of 8."""
    return (0,) * count


class Vector(types.Type):
    """Numba's type of `lanes` float32."""

    def __init__(self, lanes: int):
        super().__init__(name=f"float32x{lanes}")
        self.lanes = lanes


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is one LLVM value."""

    def __init__(self, manager: Any, vector: Vector):
        super().__init__(manager, vector, ir.VectorType(ir.FloatType(), vector.lanes))


def _constant(like, value):
    """LLVM constant of the type of `like`, or of integers as many, with `value` in every lane."""
    scalar = ir.FloatType() if isinstance(value, float) else ir.IntType(32)
    return ir.Constant(ir.VectorType(scalar, like.type.count), [value] * like.type.count)


def _call(builder, name, *operands):
    """Call of an overloaded LLVM intrinsic on float vectors, such as `llvm.maxnum`."""
    vector = operands[0].type
    signature = ir.FunctionType(vector, [vector] * len(operands))
    function = cgutils.get_or_insert_function(builder.module, signature, f"{name}.v{vector.count}f32")
    return builder.call(function, operands)


def _pointer(context, builder, array_type, array, index, vector):
    data = context.make_array(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), context.get_value_type(vector).as_pointer())


@intrinsic
def load(typing_context, lanes, array, index):
    """The entries of a flat float32 array that begin at `index`, as many as `lanes` is long, unchecked."""
    vector = Vector(lanes.count)

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[1], *arguments[1:], vector)
        return builder.load(pointer, align=4)

    return vector(lanes, array, types.intp), generate


@intrinsic
def store(typing_context, array, index, vector):
    """Write a vector to the entries of a flat float32 array that begin at `index`, unchecked."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2], vector)
        builder.store(arguments[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def broadcast(typing_context, lanes, scalar):
    """A vector with the same float32 in every lane."""
    vector = Vector(lanes.count)

    def generate(context, builder, signature, arguments):
        undefined = ir.Constant(context.get_value_type(vector), ir.Undefined)
        first = builder.insert_element(undefined, arguments[1], ir.IntType(32)(0))
        return builder.shuffle_vector(first, undefined, _constant(first, 0))

    return vector(lanes, types.float32), generate


def _elementwise(emit, operands):
    """Intrinsic of one to three vectors; `emit(builder, a, ...)` writes it out."""

    def generate(context, builder, signature, arguments):
        return emit(builder, *arguments)

    def unary(typing_context, a):
        return a(a), generate

    def binary(typing_context, a, b):
        return a(a, a), generate

    def ternary(typing_context, a, b, c):
        return a(a, a, a), generate

    return intrinsic((unary, binary, ternary)[operands - 1])


def _emit_exp(builder, x):
    """`x = n log 2 + r` with |r| <= log(2) / 2; a polynomial gives `e ** r`, the exponent bits `2 ** n`."""
    n = _call(builder, "llvm.rint", builder.fmul(x, _constant(x, 1.4426950408889634)))
    r = _call(builder, "llvm.fmuladd", n, _constant(x, -0.693359375), x)  # log 2 in two parts: exact product
    r = _call(builder, "llvm.fmuladd", n, _constant(x, 2.12194440e-4), r)
    value = _constant(x, 1 / 720)
    for coefficient in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        value = _call(builder, "llvm.fmuladd", value, r, _constant(x, coefficient))
    exponent = builder.add(builder.fptosi(n, _constant(x, 0).type), _constant(x, 127))
    power = builder.bitcast(builder.shl(exponent, _constant(x, 23)), x.type)
    small = builder.fcmp_ordered("<", x, _constant(x, -80.0))
    return builder.select(small, _constant(x, 0.0), builder.fmul(value, power))


def _emit_comparison(symbol):
    def emit(builder, a, b):
        return builder.select(builder.fcmp_ordered(symbol, a, b), _constant(a, 1.0), _constant(a, 0.0))

    return emit


def _emit_swap(distance):
    def emit(builder, vector):
        lanes = vector.type.count
        order = ir.Constant(_constant(vector, 0).type, [lane ^ distance for lane in range(lanes)])
        return builder.shuffle_vector(vector, vector, order)

    return emit


# `a * b + c`, fused where the machine can.
multiply_add = _elementwise(lambda builder, a, b, c: _call(builder, "llvm.fmuladd", a, b, c), 3)
maximum = _elementwise(lambda builder, a, b: _call(builder, "llvm.maxnum", a, b), 2)
# Comparisons: 1.0 in the lanes where they hold, 0.0 in the others.
less = _elementwise(_emit_comparison("<"), 2)
less_equal = _elementwise(_emit_comparison("<="), 2)
# Rounded to the nearest integer, halves to the even one.
nearest_integer = _elementwise(lambda builder, a: _call(builder, "llvm.rint", a), 1)
# `e ** x` for x <= 0, to 2e-7 relative; 0 below -80, so that no subnormal numbers arise.
exp = _elementwise(_emit_exp, 1)
# Lane i exchanged with lane i XOR 1, 2, 4.
_swap_1, _swap_2, _swap_4 = (_elementwise(_emit_swap(distance), 1) for distance in (1, 2, 4))


def _emit_reduction(combine):
    """Over all lanes, 4 or a multiple of 8; the result is in every lane."""

    def emit(builder, vector):
        def pick(source, order):
            return builder.shuffle_vector(
                source, source, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
            )

        total = vector.type.count
        size = min(total, 8)
        parts = [pick(vector, list(range(first, first + size))) for first in range(0, total, size)]
        result = parts[0]
        for part in parts[1:]:
            result = combine(builder, result, part)
        for distance in (1, 2, 4)[: size.bit_length() - 1]:
            result = combine(builder, result, pick(result, [lane ^ distance for lane in range(size)]))
        return pick(result, [lane % size for lane in range(total)])

    return emit


# Maximum and sum over all lanes, in every lane.
all_maximum = _elementwise(_emit_reduction(lambda builder, a, b: _call(builder, "llvm.maxnum", a, b)), 1)
all_sum = _elementwise(_emit_reduction(lambda builder, a, b: builder.fadd(a, b)), 1)


def _define_operator(symbol, emit):
    function = _elementwise(emit, 2)

    @overload(symbol)
    def typed(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: function(a, b)
        return None


_define_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_define_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_define_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_define_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))


@register_jitable
def group_maximum(vector, group):
    """Largest lane of each group of `group` (1, 2, 4 or 8) neighboring lanes, in all lanes of the group."""
    if group > 1:
        vector = maximum(vector, _swap_1(vector))
    if group > 2:
        vector = maximum(vector, _swap_2(vector))
    if group > 4:
        vector = maximum(vector, _swap_4(vector))
    return vector


@register_jitable
def group_sum(vector, group):
    """Sum over each group of `group` (1, 2, 4 or 8) neighboring lanes, in all lanes of the group."""
    if group > 1:
        vector = vector + _swap_1(vector)
    if group > 2:
        vector = vector + _swap_2(vector)
    if group > 4:
        vector = vector + _swap_4(vector)
    return vector


def _check_versions(numba_version: str, llvmlite_version: str) -> None:
    """Runs a kernel of all operations where the versions are not those tested.

    Raises:
        ImportError: it does not compile, or computes something else.
    """
    found = {"numba": numba_version, "llvmlite": llvmlite_version}
    minor = {name: tuple(map(int, version.split(".")[:2])) for name, version in found.items()}
    if all(first <= minor[name] <= last for name, (first, last) in TESTED.items()):
        return
    cause: Any = None
    try:
        correct = _operations_are_correct()
    except Exception as error:  # whatever a changed interface raises
        correct, cause = False, error
    if not correct:
        tested = ", ".join(
            f"{name}>={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"
            for name, (first, last) in TESTED.items()
        )
        raise ImportError(
            f"The dense CRF and the random walk do not work with numba {numba_version} and llvmlite "
            f"{llvmlite_version}. Install {tested}."
        ) from cause


def _operations_are_correct() -> bool:
    """Whether a kernel gives what NumPy gives."""
    a = np.array([-3, 1, 2.5, -0.5, 0, -7, 4, -1], np.float32)
    result = np.empty((9, 8), np.float32)
    njit(_try_operations)(lanes(8), a, result.reshape(-1))
    pairs = a.reshape(4, 2)
    expected = [
        2 * a + 1,
        np.maximum(a, 0),
        (a < 1).astype(np.float32),
        (a <= 1).astype(np.float32),
        np.rint(a),
        np.exp(np.minimum(a, 0)),
        np.full(8, a.max() + a.sum()),
        (a - 2) / 2,
        np.repeat(pairs.max(axis=1) + pairs.sum(axis=1), 2),
    ]
    return bool(np.allclose(result, expected, rtol=1e-6))


def _try_operations(vector_lanes, array, result):
    a = load(vector_lanes, array, 0)
    zero, one = broadcast(vector_lanes, np.float32(0)), broadcast(vector_lanes, np.float32(1))
    two = one + one
    store(result, 0, multiply_add(two, a, one))
    store(result, 8, maximum(a, zero))
    store(result, 16, less(a, one))
    store(result, 24, less_equal(a, one))
    store(result, 32, nearest_integer(a))
    store(result, 40, exp(zero - maximum(zero - a, zero)))
    store(result, 48, all_maximum(a) + all_sum(a * one))
    store(result, 56, (a - two) / two)
    store(result, 64, group_maximum(a, 2) + group_sum(a, 2))


_check_versions(numba.__version__, llvmlite.__version__)
