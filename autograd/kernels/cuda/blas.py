"""Matrix products by cuBLAS where the arrays lie: with a bias added on the way, and in batches of any strides.

CuPy's `matmul` copies what is not contiguous, adds no bias and spends 30 microseconds of the host on a product. Here a
product is prepared once for each kind of call, and a call only passes addresses on: cublasLt computes one product or
an evenly spaced batch, and cuBLAS a batch whose matrices lie anywhere, from tables of addresses on the device. Products
are of float32 without TF32, unless CuPy's own setting (CUPY_TF32=1) allows it, or of float64; `products("3xtf32")`
gives those of float32 to `tensor_cores`.

Matrices are row-major: out (n, m) = alpha x (n, k) y (k, m) + beta out, each possibly a transposed one in memory.
cuBLAS counts by columns, so it is given y^T x^T.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from ...modes import products_mode
from .prepared import Matrices, ProductSizes
from .tensor_cores import ThreeProducts, pays, supported

_WORKSPACE = 32 << 20  # bytes that cublasLt may use in a product

# names of cuBLAS's C interface
_COMPUTE_32F, _COMPUTE_TF32, _COMPUTE_64F = 68, 77, 70
_THREE_TF32 = -3  # none of cuBLAS's
_REAL = {"f": 0, "d": 1}
_SIZE = {"f": 4, "d": 8}
_TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _BIAS_POINTER = 3, 4, 7, 8
_EPILOGUE_BIAS = 4
_BATCH_COUNT, _BATCH_OFFSET = 5, 6
_MAX_WORKSPACE, _ALIGNMENTS = 1, (5, 6, 7, 8)
_TF32 = 7  # CuPy's name of the compute type
_FEWEST = 32  # rows and columns: with fewer a product is mostly reading, which cuBLAS does best


class _Result(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


class _Libraries(NamedTuple):
    lt: ctypes.CDLL
    blas: ctypes.CDLL


@cache
def _libraries() -> _Libraries | None:
    """cuBLAS as CuPy has loaded it; None where it cannot be found, and products are left to CuPy."""
    from cupy.cuda import cublas, device

    major = cublas.getVersion(device.get_cublas_handle()) // 10000
    try:
        lt, blas = ctypes.CDLL(f"libcublasLt.so.{major}"), ctypes.CDLL(f"libcublas.so.{major}")
    except OSError:
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    lt.cublasLtMatmul.argtypes = [*[pointer] * 14, ctypes.c_size_t, pointer]
    matrix: list[Any] = [pointer, integer, integer]
    blas.cublasGemmBatchedEx.argtypes = [
        *(pointer, integer, integer, integer, integer, integer, pointer),
        *(*matrix, *matrix, pointer, *matrix, integer, integer, integer),
    ]
    blas.cublasSetStream_v2.argtypes = [pointer, pointer]
    return _Libraries(lt, blas)


def available() -> bool:
    """Whether products can be computed here."""
    return _libraries() is not None


@cache
def _compute_type_of() -> Callable[[str], int]:
    from cupy._core import get_compute_type

    return get_compute_type  # type: ignore[no-any-return]


def precision(char: str) -> int:
    """What products of this element type are computed in: part of what a prepared product is kept under."""
    if char == "d":
        return _COMPUTE_64F
    if products_mode() == "3xtf32":
        supported()
        return _THREE_TF32
    return _COMPUTE_TF32 if _compute_type_of()("f") == _TF32 else _COMPUTE_32F


def single(char: str) -> bool:
    """Whether products are of float32, computed in it."""
    return precision(char) == _COMPUTE_32F


def _compute(char: str) -> int:
    """The same by cuBLAS's names; what is left to it while products are of three is of float32."""
    return _COMPUTE_32F if (kind := precision(char)) == _THREE_TF32 else kind


def spaced(
    char: str,
    sizes: ProductSizes,
    x: Matrices,
    y: Matrices,
    out: Matrices,
    *,
    count: int = 1,
    alpha: float = 1.0,
    beta: float = 0.0,
    aligned: bool = True,
    bias: bool = False,
) -> Spaced | ThreeProducts:
    """One product, or an evenly spaced batch. `aligned`: all addresses and steps are multiples of 16 bytes."""
    wide = (aligned and x.row % 4 == 0, aligned and y.row % 4 == 0)
    if _by_three(char, sizes, count, wide):
        return ThreeProducts(sizes, x, y, out, count=count, alpha=alpha, beta=beta, wide=wide)
    return Spaced(char, sizes, x, y, out, count=count, alpha=alpha, beta=beta, aligned=aligned, bias=bias)


def listed(
    char: str,
    sizes: ProductSizes,
    x: Matrices,
    y: Matrices,
    out: Matrices,
    *,
    count: int,
    alpha: float = 1.0,
    beta: float = 0.0,
    wide: tuple[bool, bool] = (False, False),
) -> Listed | ThreeProducts:
    """A batch whose matrices lie anywhere. `wide`: all addresses of x, and of y, are multiples of 16 bytes."""
    wide = (wide[0] and x.row % 4 == 0, wide[1] and y.row % 4 == 0)
    if _by_three(char, sizes, count, wide):
        return ThreeProducts(sizes, x, y, out, count=count, alpha=alpha, beta=beta, wide=wide, listed=True)
    return Listed(char, sizes, x, y, out, count=count, alpha=alpha, beta=beta)


def _by_three(char: str, sizes: ProductSizes, count: int, wide: tuple[bool, bool]) -> bool:
    if precision(char) != _THREE_TF32 or min(sizes.n, sizes.m) < _FEWEST:
        return False
    return pays(sizes, count, all(wide))


class Spaced:
    """One product, or an evenly spaced batch, with a bias (m,) added or not: by cublasLt's first choice."""

    def __init__(
        self,
        char: str,
        sizes: ProductSizes,
        x: Matrices,
        y: Matrices,
        out: Matrices,
        *,
        count: int = 1,
        alpha: float = 1.0,
        beta: float = 0.0,
        aligned: bool = True,
        bias: bool = False,
    ) -> None:
        """`aligned`: all addresses and steps are multiples of 16 bytes."""
        import cupy

        libraries = _libraries()
        assert libraries is not None
        lt = libraries.lt
        self._handle, self._stream = cupy.cuda.device.get_cublas_handle, cupy.cuda.get_current_stream
        self._alloc, self._run, self._set_attribute = cupy.cuda.alloc, lt.cublasLtMatmul, _quick(lt)
        self._factors = [_number(value, char) for value in (alpha, beta)]
        self._alpha, self._beta = (ctypes.addressof(value) for value in self._factors)
        self._bias = ctypes.c_void_p()
        self._bias_there = ctypes.addressof(self._bias)
        description = _description(lt, char, x, y, bias)
        a, b, c = (
            _layout(lt, char, matrices, shape, count)
            for matrices, shape in ((y, (sizes.m, sizes.k)), (x, (sizes.k, sizes.n)), (out, (sizes.m, sizes.n)))
        )
        self._result = _first_choice(lt, (description, a, b, c), 16 if aligned else _SIZE[char], sizes)
        self._algorithm, self.workspace = ctypes.addressof(self._result), int(self._result.workspace)
        self._description, self._a, self._b, self._c = description.value, a.value, b.value, c.value

    def __call__(self, x: int, y: int, out: int, bias: int = 0, onto: int = 0) -> None:
        """`onto`: where the matrix lies that beta is for, laid out as `out`, which it is unless given."""
        if bias:
            self._bias.value = bias
            self._set_attribute(self._description, _BIAS_POINTER, self._bias_there, 8)
        space = self._alloc(self.workspace) if self.workspace else None
        status = self._run(
            self._handle(),
            self._description,
            self._alpha,
            y,
            self._a,
            x,
            self._b,
            self._beta,
            onto or out,
            self._c,
            out,
            self._c,
            self._algorithm,
            space.ptr if space is not None else None,
            self.workspace,
            self._stream().ptr,
        )
        if status:
            _check(status, "cublasLtMatmul")


class Listed:
    """A batch of products whose matrices lie anywhere: called with the addresses of tables of their addresses."""

    def __init__(
        self,
        char: str,
        sizes: ProductSizes,
        x: Matrices,
        y: Matrices,
        out: Matrices,
        *,
        count: int = 1,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        import cupy

        libraries = _libraries()
        assert libraries is not None
        # CuPy's own setter refuses while a graph is recorded
        self._run, self._set_stream = libraries.blas.cublasGemmBatchedEx, libraries.blas.cublasSetStream_v2
        self._handle, self._stream = cupy.cuda.device.get_cublas_handle, cupy.cuda.get_current_stream
        self._factors = [_number(value, char) for value in (alpha, beta)]
        real = _REAL[char]
        self._first = (int(y.transposed), int(x.transposed), sizes.m, sizes.n, sizes.k)
        self._alpha, self._beta = (ctypes.addressof(value) for value in self._factors)
        self._y, self._x, self._out = (real, y.row), (real, x.row), (real, out.row, count, _compute(char), -1)

    def __call__(self, x: int, y: int, out: int) -> None:
        handle = self._handle()
        self._set_stream(handle, self._stream().ptr)
        status = self._run(handle, *self._first, self._alpha, y, *self._y, x, *self._x, self._beta, out, *self._out)
        if status:
            _check(status, "cublasGemmBatchedEx")


@cache
def _quick(lt: Any) -> Any:
    """cublasLtMatmulDescSetAttribute for addresses given as numbers."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    return kind(("cublasLtMatmulDescSetAttribute", lt))


def _description(lt: Any, char: str, x: Matrices, y: Matrices, bias: bool) -> Any:
    description = ctypes.c_void_p()
    _check(lt.cublasLtMatmulDescCreate(ctypes.byref(description), _compute(char), _REAL[char]), "description")
    for attribute, matrices in ((_TRANSPOSE_A, y), (_TRANSPOSE_B, x)):
        _set(lt.cublasLtMatmulDescSetAttribute, description, attribute, ctypes.c_int32(matrices.transposed))
    if bias:
        _set(lt.cublasLtMatmulDescSetAttribute, description, _EPILOGUE, ctypes.c_int32(_EPILOGUE_BIAS))
    return description


def _layout(lt: Any, char: str, matrices: Matrices, shape: tuple[int, int], count: int) -> Any:
    layout = ctypes.c_void_p()
    rows, columns = shape[::-1] if matrices.transposed else shape
    sizes = (ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(matrices.row))
    _check(lt.cublasLtMatrixLayoutCreate(ctypes.byref(layout), _REAL[char], *sizes), "layout")
    if count > 1:
        _set(lt.cublasLtMatrixLayoutSetAttribute, layout, _BATCH_COUNT, ctypes.c_int32(count))
        step = ctypes.c_int64(matrices.step // _SIZE[char])
        _set(lt.cublasLtMatrixLayoutSetAttribute, layout, _BATCH_OFFSET, step)
    return layout


def _first_choice(lt: Any, problem: tuple[Any, ...], alignment: int, sizes: ProductSizes) -> _Result:
    """What cublasLt would compute a product by."""
    import cupy

    preference = ctypes.c_void_p()
    _check(lt.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)), "preference")
    _set(lt.cublasLtMatmulPreferenceSetAttribute, preference, _MAX_WORKSPACE, ctypes.c_uint64(_WORKSPACE))
    for attribute in _ALIGNMENTS:
        _set(lt.cublasLtMatmulPreferenceSetAttribute, preference, attribute, ctypes.c_uint32(alignment))
    result, found = _Result(), ctypes.c_int()
    handle, out = ctypes.c_void_p(cupy.cuda.device.get_cublas_handle()), problem[-1]
    status = lt.cublasLtMatmulAlgoGetHeuristic(
        handle, *problem, out, preference, 1, ctypes.byref(result), ctypes.byref(found)
    )
    lt.cublasLtMatmulPreferenceDestroy(preference)
    _check(status, "cublasLtMatmulAlgoGetHeuristic")
    if not found.value:
        raise RuntimeError(f"cuBLAS has no way to compute a product of {sizes}")
    return result


def _number(value: float, char: str) -> Any:
    return (ctypes.c_float if char == "f" else ctypes.c_double)(value)


def _set(function: Any, target: Any, attribute: int, value: Any) -> None:
    status = function(target, ctypes.c_int(attribute), ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))
    _check(status, "attribute")


def _check(status: int, call: str) -> None:
    if status:
        raise RuntimeError(f"cuBLAS: {call} failed with status {status}")
