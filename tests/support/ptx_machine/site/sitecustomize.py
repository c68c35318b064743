"""Has a Python process use the machine, once it imports numba-cuda."""

from __future__ import annotations

import importlib.abc
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

TRIGGER = "numba.cuda.dispatcher"
"""numba-cuda's own, which is imported before anything is compiled."""


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == TRIGGER:
            sys.meta_path.remove(self)
            sys.path.append(os.environ["PTX_MACHINE_TESTS"])
            from support.ptx_machine import install  # others do not pay for it

            install()
        return None


sys.meta_path.insert(0, _Finder())
