"""The rung that this process stands on."""

from __future__ import annotations

import os

from keepgate_kernels.cpu.rungs import VARIABLE, choose

RUNG = choose(os.environ.get(VARIABLE))
"""What this process compiles its kernels for. Importing it raises RungError for a wrong KEEPGATE_CPU."""
