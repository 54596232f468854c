"""float32 products on tensor cores, from three products of TF32 (Ootomo and Yokota 2022, arXiv 2203.03341).

    x = x1 + x2,  y = y1 + y2          x1 the nearest TF32 number (11 digits), x2 = x - x1 cut to one
    x y ~ x2 y1 + x1 y2 + x1 y1        x2 y2 is below float32's rounding

Tensor cores cut their sums instead of rounding them, so that these would shrink: sums of `TERMS` products are made
there, and added up by float32 additions. `definition` is this arithmetic in NumPy.

What is not finite is computed again by float32 multiply-adds: infinities, NaN and sums that overflow come out as theirs
do. Factors below 2^-114 have fewer digits, as the second part is then below TF32's smallest number.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...backend import BackendError
from .prepared import Matrices, ProductSizes
from .tensor_cores_source import SOURCE

TERMS = 32
"""Products that are summed on tensor cores before a rounded addition."""

_STEP = 8  # products of one instruction
_MOST_MEMORY = 8  # the driver's name of the most shared memory of a block


def definition(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x (n, k) times y (k, m) by this arithmetic: float32 -> float32, of finite numbers.

    Tensor cores cut the sum of eight products and what was there to 24 binary digits.
    """
    (x1, x2), (y1, y2) = _parts(x), _parts(y)
    total = np.zeros((x.shape[0], y.shape[1]), np.float32)
    for start in range(0, x.shape[1], TERMS):
        part = np.zeros(total.shape, np.float64)
        for a, b in ((x2, y1), (x1, y2), (x1, y1)):
            for at in range(start, min(start + TERMS, x.shape[1]), _STEP):
                part = _cut(part + a[:, at : at + _STEP] @ b[at : at + _STEP], 24)
        total += part.astype(np.float32)
    return total


def _parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 as the nearest TF32 number, of two as near the larger, and what is left cut to one; held in float64."""
    big = ((np.ascontiguousarray(x).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return big.astype(np.float64), _cut((x - big).astype(np.float64), 11)


def _cut(x: np.ndarray, digits: int) -> np.ndarray:
    """float64 cut to so many binary digits."""
    fraction, exponent = np.frexp(x)
    cut: np.ndarray = np.ldexp(np.trunc(np.ldexp(fraction, digits)), exponent - digits)
    return cut


@cache
def supported() -> None:
    """Nothing, or `BackendError` where the GPU is none of Hopper's, whose instructions the kernel is made of."""
    import cupy

    capability = cupy.cuda.Device().compute_capability
    if capability != "90":
        found = f"{capability[:-1]}.{capability[-1]}"
        raise BackendError(
            f"products of 3xtf32 need NVIDIA's Hopper (H100, H200: compute capability 9.0); this GPU's is {found}: "
            'leave products at "default"'
        )


class Tile(NamedTuple):
    """Blocks of the result that a block of threads computes, and its nanoseconds for 32 products of each element."""

    rows: int
    columns: int
    time: int


TILES = (Tile(128, 128, 1500), Tile(128, 96, 1200), Tile(128, 64, 1050))
"""The kernel's, as measured on an H200."""
FLOAT32 = (Tile(128, 128, 2700), Tile(128, 64, 1400), Tile(64, 64, 750))
"""cuBLAS's, as it is measured: no names of its kernels."""
NARROW = 1.4  # times as long, where x or y is not read 16 bytes at a time (at worst 1.8, with both of 4096 x 4096)
STAGES = 4  # blocks of 32 products whose parts of y are in shared memory at a time
_START = 1500  # nanoseconds from a block's first load to its first product, and to write what it made
_SHARED = 12_000  # of the launch that adds parts up
_BYTES = 3000  # that the device moves in a nanosecond
_LEAST = 256  # products of a share


class Split(NamedTuple):
    """How a product is carried out: its tiles, and into how many shares its sums are divided."""

    tile: Tile
    shares: int
    share: int


def choice(sizes: ProductSizes, count: int, multiprocessors: int, tiles: tuple[Tile, ...]) -> tuple[Split, float]:
    """The tile and the shares that should take the least time for `count` products, and that in nanoseconds."""
    n, m, k = sizes
    best, least = None, float("inf")
    for tile in tiles:
        blocks = -(-n // tile.rows) * -(-m // tile.columns) * count
        for wanted in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128):
            if wanted > 1 and k < wanted * _LEAST:
                break
            share = -(-k // (wanted * TERMS)) * TERMS
            shares = -(-k // share)
            waves = -(-blocks * shares // multiprocessors)
            time = float(waves * (share // TERMS * tile.time + _START))
            time += (_SHARED + 8 * shares * n * m * count / _BYTES) if shares > 1 else 0
            if time < least:
                best, least = Split(tile, shares, share), time
    assert best is not None
    return best, least


def pays(sizes: ProductSizes, count: int, wide: bool) -> bool:
    """Whether three products of TF32 should take less time than one of float32. `wide`: x and y by 16 bytes."""
    three, one = (choice(sizes, count, _multiprocessors(), tiles)[1] for tiles in (TILES, FLOAT32))
    return three * (1 if wide else NARROW) < one


def source(tile: Tile, x_transposed: bool, y_transposed: bool, wide: tuple[bool, bool]) -> str:
    """The text of the kernels; `wide`: x and y can be read 16 bytes at a time."""
    names = {"BM": tile.rows, "BN": tile.columns, "STAGES": STAGES}
    names |= {"XK": int(not x_transposed), "YK": int(y_transposed)}
    names |= {"VX": 4 if wide[0] else 1, "VY": 4 if wide[1] else 1}
    width = tile.columns // 2
    outputs = ", ".join(f"%{i}" for i in range(width)), ", ".join(f'"+f"(d[{i}])' for i in range(width))
    text = SOURCE.replace("OUTPUTS", outputs[0]).replace("OPERANDS", outputs[1]).replace("COLUMNS", str(tile.columns))
    for i in range(6):
        text = text.replace(f"%WIDTH{i}", f"%{width + i}")
    return "".join(f"#define {name} {value}\n" for name, value in names.items()) + text


def _binary(text: str) -> bytes:
    """A text compiled, or as it was before, from a file beside those that CuPy keeps."""
    from cupy.cuda import nvrtc

    folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
    kept = folder / f"{sha256(repr((text, nvrtc.getVersion())).encode()).hexdigest()}.perceiver-ref.cubin"
    with suppress(OSError):
        return kept.read_bytes()
    made = _compiled(text)
    aside = kept.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(made)
        aside.replace(kept)
    return made


def _compiled(text: str) -> bytes:
    """Not by CuPy: for Hopper's own instructions, and with subnormal numbers."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(text, "products.cu", (), ())
    try:
        nvrtc.compileProgram(program, ("-std=c++17", "-arch=sm_90a"))
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{error}: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)


@cache
def _multiprocessors() -> int:
    import cupy

    return int(cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["multiProcessorCount"])


@cache
def _module(text: str, device: int) -> Any:
    """The kernels of a text on a device."""
    import cupy

    del device
    module = cupy.cuda.function.Module()
    module.load(_binary(text))
    return module


class ThreeProducts:
    """A prepared product, or batch of them, as `blas.Spaced` (or, `listed`, as `blas.Listed`), of float32."""

    def __init__(
        self,
        sizes: ProductSizes,
        x: Matrices,
        y: Matrices,
        out: Matrices,
        *,
        count: int = 1,
        alpha: float = 1.0,
        beta: float = 0.0,
        wide: tuple[bool, bool] = (True, True),
        listed: bool = False,
        split: Split | None = None,
    ) -> None:
        """`wide`: all addresses, rows and steps of x, and of y, are multiples of 16 bytes."""
        import cupy

        n, m, k = sizes
        made = split or choice(sizes, count, _multiprocessors(), TILES)[0]
        tile = made.tile
        text = source(tile, x.transposed, y.transposed, wide)
        module = _module(text, cupy.cuda.Device().id)
        self._product, self._together = module.get_function("product"), module.get_function("together")
        self._memory = STAGES * 2 * 128 * tile.columns
        cupy.cuda.driver.funcSetAttribute(self._product.ptr, _MOST_MEMORY, self._memory)
        self._grid = (-(-n // tile.rows) * -(-m // tile.columns) * count, made.shares)
        self._steps = (x.step, y.step, out.step, int(listed), n, m, k, x.row, y.row, out.row, float(alpha), float(beta))
        self._sharing, self._alloc = (count, made.shares, made.share), cupy.cuda.alloc
        self.workspace = 4 * made.shares * n * m * count if made.shares > 1 else 0
        self._adding = (min(-(-n * m * count // 256), 4096),)

    def __call__(self, x: int, y: int, out: int, bias: int = 0, onto: int = 0) -> None:
        """As `blas.Spaced`."""
        space = self._alloc(self.workspace) if self.workspace else None
        parts = space.ptr if space is not None else 0
        told = (x, y, out, *self._steps, onto or out, bias, *self._sharing, parts)
        self._product(self._grid, (384,), told, shared_mem=self._memory)
        if parts:
            self._together(self._adding, (256,), told)
