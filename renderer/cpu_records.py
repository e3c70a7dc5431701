"""What the compiled loops of the CPU rasterizer share: how they are compiled, the record of a visible splat.

The 2D Gaussian is kept as its row-wise conditional: in the row dy below the centre its middle lies at X + SHEAR dy
and its exponent is OFFSET + DOWN dy^2 + ACROSS dx^2. That costs two operations a pixel and keeps the digits of long,
thin splats. Exponents are log2(alpha) / 8.

The loops work on flat arrays, without checks of bounds, so that LLVM makes SIMD of them. NaN never passes a culling
test (each is written to fail on it), so no index is ever made of one. numba's cache looks at the file of a loop
alone: after an edit here touch the cpu_*.py that import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba.extending import intrinsic

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

TILE_WIDTH = 16
TILE_HEIGHT = 32
CHUNK = 4096  # Gaussians projected at a time: fixed, so that the number of threads changes no bit
LOG2_E = math.log2(math.e)

RECORD = 12  # float32 values of a visible splat
X, Y, SHEAR, ACROSS, DOWN, OFFSET, RED, GREEN, BLUE, DEPTH, RADIUS_X, RADIUS_Y = range(RECORD)


def kernel(fast: bool = False) -> Callable[[Kernel], Kernel]:
    """numba.njit with our settings; `fast` lets LLVM fuse and reorder, but never assume that NaN is absent."""
    flags: Any = {"contract", "reassoc", "nsz", "arcp"} if fast else {"contract"}
    return cast("Callable[[Kernel], Kernel]", numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=flags))


def _prefetch(_typing: Any, array: Any, at: Any) -> Any:
    """Ask the processor for the cache line of array[at] ahead of its use: the splats of a tile lie all over memory.

    Any index will do: what is not there is not fetched.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        shape = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], shape)
        line = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(ask, [line, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return numba.void(array, at), code


prefetch: Callable[[Any, Any], None] = intrinsic(_prefetch)  # type: ignore[assignment]
