"""The one way to compile a kernel, and the array types that signatures are made of.

Explicit signatures compile once, for read-only and writable arrays alike; lazily typed kernels
would compile again for every mixture of the two.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from numba import njit, types
from numba.core import event

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


class _Compiling(event.Listener):  # type: ignore[misc]
    """Says, once a process, that machine code is made and not read from the cache."""

    was_told = False

    def on_start(self, event: Any) -> None:
        if not _Compiling.was_told:
            _Compiling.was_told = True
            logging.getLogger("nearsearch").info("compiling once: up to half a minute")

    def on_end(self, event: Any) -> None:
        pass


def kernel(signature: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function for `signature` (or for each of a list of them), and keep its types.

    The machine code is cached on disk, the interpreter lock released, and a division by zero gives
    infinity or NaN as in C. No fast-math: the bits of a code must not move with the compiler. No
    threads: callers own those.
    The cache sees changes of the kernel's own file only, so a kernel calls kernels of its own file.
    """

    def compile_kernel(function: Callable[P, R]) -> Callable[P, R]:
        with event.install_listener("numba:compile", _Compiling()):
            compiled = njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        return cast("Callable[P, R]", compiled)

    return compile_kernel


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function into the kernels that call it, for the types that they call it with.

    It has no machine code of its own to load from the cache, which takes a process 3 ms each.
    """
    return cast("Callable[P, R]", njit(nogil=True, error_model="numpy")(function))


def readonly(dtype: Any, ndim: int = 1, *, aligned: bool = True) -> Any:
    """Return the type of a C-contiguous input array; it accepts writable arrays as well."""
    return types.Array(dtype, ndim, "C", readonly=True, aligned=aligned)


def writable(dtype: Any, ndim: int = 1) -> Any:
    """Return the type of a C-contiguous output or scratch array."""
    return types.Array(dtype, ndim, "C")
