"""`python -m support.ptx_machine COMMAND ...`: run a command with the machine as its CUDA device."""

from __future__ import annotations

import os
import sys

from support.ptx_machine import BUILD, build, environment

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    os.execvpe(sys.argv[1], sys.argv[1:], environment(build(BUILD)))
