"""A process with Triton's own client in it.

The client registers its messages under names that the server's have too, so the two are never in one process.
"""

from __future__ import annotations

import importlib
import multiprocessing
import traceback
from concurrent.futures import ProcessPoolExecutor
from typing import Any

SECONDS = 120.0
"""After which a scenario counts as hung."""


class TritonProcess:
    """Runs scenarios one after the other."""

    def __init__(self) -> None:
        self._executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def run(self, scenario: str, *arguments: object) -> Any:
        """What `module.function` of this package returns. Fails the test if it raises."""
        result, failure = self._executor.submit(_call, scenario, arguments).result(SECONDS)
        assert not failure, failure
        return result

    def close(self) -> None:
        self._executor.shutdown()


def _call(scenario: str, arguments: tuple[object, ...]) -> tuple[Any, str]:
    module, _, function = scenario.partition(".")
    try:
        return getattr(importlib.import_module(f"triton_client.{module}"), function)(*arguments), ""
    except Exception:  # not all exceptions travel between processes
        return None, traceback.format_exc()
