"""How helpers are compiled: nobody calls one, it becomes a part of the kernels that use it.

numba makes a library of every function: optimised twice, turned into machine code, with a wrapper
for calls from Python. Of a helper only LLVM's text is used, in the kernel, where it is optimised
with all the rest. So a helper is done when its text is written. That makes compiling two to three
times as fast, because helpers call helpers: each level would optimise all below it again.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

__all__ = ["Inlined"]


class _Text(JITCodeLibrary):  # type: ignore[misc]
    """A function's code before it is optimised; there is no other."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class Inlined(Compiler):  # type: ignore[misc]
    """numba's compiler, for functions that other compiled functions take in and nobody calls."""

    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, _Text(target.codegen(), "helper"), *rest)
        self.state.targetctx.get_executable = _no_executable


def _no_executable(library: Any, description: Any, environment: Any) -> Any:
    """Return what numba knows the function by, in place of one that could be called.

    It wants a builtin function, another one for each function that it has compiled.
    """
    library._ensure_finalized()
    return [].append
