"""A bounded run of a fuzzer: how much it does, what it watches, what it says at the end.

Inputs come from Atheris (https://github.com/google/atheris), which keeps those that reach new lines of
Keepgate. An exception is a failure: the inputs that led to it, in order, are left in build/fuzz.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import atheris

OUTPUT = Path(__file__).parents[2] / "build" / "fuzz"
LEFT = 2_000
"""Inputs that are left after a failure: the last ones."""
INPUT_BYTES = 1_024
SEEDS = 200
HANG_SECONDS = 60
"""One input that takes longer is a failure, wherever it hangs. A call has its own, shorter deadline."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


class FoundError(Exception):
    """What was fuzzed did something that it never should."""


class Campaign:
    """Feeds `one` with inputs until `goal` things are counted, or time is over.

    name: of the folder and in the summary. things: what `count` counts. growth: bytes that the process may
    grow by once a fifth of the goal is reached.
    """

    def __init__(self, name: str, things: str, goal: int, *, growth: int = 192 * MIB) -> None:
        parser = argparse.ArgumentParser(prog=name, description=f"Fuzz Keepgate until {goal} {things}.")
        parser.add_argument(f"--{things}", dest="goal", type=int, default=goal, help=f"{goal} by default")
        parser.add_argument("--seconds", type=int, default=1_500, help="the most that it takes")
        parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
        parser.add_argument("inputs", nargs="*", type=Path, help="do only these, in this order")
        asked = parser.parse_args()
        self.goal: int = asked.goal
        self.seen: Counter[str] = Counter()
        self._name = name
        self._things = things
        self._seconds: int = asked.seconds
        self._seed: int = asked.seed or random.SystemRandom().randrange(1, 1 << 31)
        self._given: list[Path] = asked.inputs
        self._growth = growth
        self._settled_bytes = 0
        self._inputs = 0
        self._count = 0
        self._begin = time.monotonic()
        self._last: deque[bytes] = deque(maxlen=LEFT)

    def count(self, what: str, number: int = 1) -> None:
        """Things were done, with this result."""
        self.seen[what] += number
        self._count += number

    def run(
        self,
        one: Callable[[bytes], None],
        *,
        look: Callable[[], None] = lambda: None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """Never returns. look: called now and then, to look for what grows. one, look: raise on a failure.

        end: called when all went well.
        """

        def watched(data: bytes) -> None:
            self._last.append(data)
            self._inputs += 1
            try:
                one(data)
                if self._inputs % 200 == 0:
                    look()
                    self._check_memory()
            except BaseException:
                self._leave_inputs()
                raise
            if self._count >= self.goal or time.monotonic() - self._begin > self._seconds:
                look()
                end()
                self._finish()

        if self._given:
            for path in self._given:
                watched(path.read_bytes())
            look()
            end()
            self._finish()
        with _corpus(self._seed) as corpus:
            flags = {"max_len": INPUT_BYTES, "len_control": 0, "timeout": HANG_SECONDS, "rss_limit_mb": 4_096}
            flags |= {"seed": self._seed, "verbosity": 0, "reload": 0}
            OUTPUT.mkdir(parents=True, exist_ok=True)
            arguments = [f"-{name}={value}" for name, value in flags.items()]
            atheris.Setup(
                [self._name, *arguments, f"-artifact_prefix={OUTPUT}/{self._name}-", str(corpus)], watched
            )
            atheris.Fuzz()

    def _check_memory(self) -> None:
        now = resident_bytes()
        if self._count < self.goal / 5:
            self._settled_bytes = now
        elif now > self._settled_bytes + self._growth:
            raise FoundError(f"memory grew from {self._settled_bytes // MIB} to {now // MIB} MiB")

    def _leave_inputs(self) -> None:
        folder = OUTPUT / f"{self._name}-failed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for index, data in enumerate(self._last):
            (folder / f"{index:05}").write_bytes(data)
        print(f"\n{self._name}: failed. The same again: {Path(sys.argv[0]).name} {folder}/*", file=sys.stderr)
        self._summarize()

    def _summarize(self) -> None:
        seconds = time.monotonic() - self._begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
        print(
            f"\n{self._name}: {self._inputs} inputs, {self._count} {self._things} in {seconds:.0f} s "
            f"({self._count / seconds:.0f}/s), seed {self._seed}, peak memory {peak // MIB} MiB, "
            f"{self._settled_bytes // MIB} MiB early and {resident_bytes() // MIB} MiB now"
        )
        for what, count in self.seen.most_common():
            print(f"  {count:>9}  {what}")
        sys.stdout.flush()

    def _finish(self) -> None:
        self._summarize()
        if not self._count:
            print(f"{self._name}: nothing was done", file=sys.stderr)
            os._exit(1)
        os._exit(0)  # libFuzzer would go on


def resident_bytes() -> int:
    """Memory that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


@contextmanager
def _corpus(seed: int) -> Iterator[Path]:
    """A folder of inputs to begin with: the same seed, the same bytes."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="keepgate-fuzz-") as folder:
        for index in range(SEEDS):
            (Path(folder) / f"{index:03}").write_bytes(dice.randbytes(dice.randrange(8, INPUT_BYTES)))
        yield Path(folder)
