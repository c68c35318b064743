"""Watch Keepgate work: start a server, stream text from two models at once, retry a step, stop.

    python demo.py [--models DIR]

Everything runs on this machine: the server takes a free port on 127.0.0.1 and is stopped at the end.
Exit code 0 if all went well, 1 with the reason if not.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from keepgate_client import AsyncClient, AsyncSession, Client, KeepgateError, TokenInputInfo
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

FAVOURITES = ("shakespeare-lstm", "shakespeare-gru")
PROMPT = "the "
CHARACTERS = 400
"""How much each session generates."""
TEMPERATURE, SEED = 0.7, 7
READING_PAUSE = 0.008
"""Seconds between characters on a terminal, for the eye; the server needs a fraction of that."""
START_SECONDS = 180.0
"""The first start on a machine compiles the kernels."""
STOP_SECONDS = 30.0
PLAIN_WIDTH = 56


class DemoError(Exception):
    """Something did not go as it should; the text says what."""


def say(console: Console, text: str, markup: bool = True) -> None:
    """Print as it is: no wrapping in the middle of a word, no colouring of numbers."""
    console.print(text, soft_wrap=True, highlight=False, markup=markup)


@contextmanager
def running_server(models: Path | None) -> Iterator[str]:
    """The address of a server that is stopped, by its process id, at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="keepgate-demo-") as folder:
        ready, log = Path(folder) / "ready", Path(folder) / "log"
        command = [sys.executable, "-m", "keepgate", "serve", "--port", "0", "--ready-file", str(ready)]
        command += ["--admin-address", "", "--http-address", ""]  # nobody is to administer or watch it
        if models:
            command += ["--models", str(models)]
        with log.open("w") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603 - our own words
        try:
            wait_until_ready(server, ready, log)
            yield ready.read_text().strip()
            server.send_signal(signal.SIGTERM)
            code = server.wait(STOP_SECONDS)
            if code != 0:
                raise DemoError(f"the server ended with exit code {code}:\n{log.read_text()}")
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"the server did not stop within {STOP_SECONDS:.0f} s") from error
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()


def wait_until_ready(server: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if server.poll() is not None:
            raise DemoError(f"the server ended with exit code {server.returncode}:\n{log.read_text()}")
        if time.monotonic() > deadline:
            raise DemoError(f"the server was not ready within {START_SECONDS:.0f} s:\n{log.read_text()}")
        time.sleep(0.02)


def pick_models(address: str) -> tuple[str, str]:
    """Two character models, the Shakespeare ones if they are there."""
    with Client(address) as client:
        names = [m.name for m in client.models() if isinstance(m.input, TokenInputInfo) and m.input.tokenizer]
    chosen = [name for name in FAVOURITES if name in names] or list(dict.fromkeys(names))
    if len(chosen) < 2:
        raise DemoError(
            f"expected two models of characters on the server, there: {', '.join(names) or 'none'}"
        )
    return chosen[0], chosen[1]


@dataclass
class Voice:
    """One session and what it has said."""

    session: AsyncSession
    text: str = PROMPT
    shown: int = 0
    turns: list[float] = field(default_factory=list)

    async def speak(self, pause: float) -> None:
        tokens = self.session.generate(PROMPT, max_tokens=CHARACTERS, temperature=TEMPERATURE, seed=SEED)
        async for token in tokens:
            self.text += token.text
            self.turns.append(time.monotonic())
            await asyncio.sleep(pause)

    def panel(self, width: int, height: int) -> Panel:
        """The end of the text, as much as fits."""
        lines = [piece for line in self.text.split("\n") for piece in textwrap.wrap(line, width - 4) or [""]]
        return Panel(
            Text("\n".join(lines[2 - height :])),
            title=f"[bold]{self.session.model}[/bold]",
            subtitle=f"position {self.session.position}",
            width=width,
            height=height,
        )

    def new_lines(self, done: bool) -> Iterator[str]:
        """Lines not shown so far, for output that is no terminal."""
        while len(self.text) - self.shown >= PLAIN_WIDTH or (done and self.shown < len(self.text)):
            line = self.text[self.shown : self.shown + PLAIN_WIDTH]
            if len(line) == PLAIN_WIDTH and " " in line:
                line = line[: line.rindex(" ") + 1]
            self.shown += len(line)
            yield f"{self.session.model:>16} | {line.replace(chr(10), ' / ')}"


async def stream_both(voices: list[Voice], console: Console) -> None:
    """Let both sessions generate at the same time, and show it as it comes."""
    pause = READING_PAUSE if console.is_terminal else 0.0
    speaking = asyncio.gather(*(voice.speak(pause) for voice in voices))
    if console.is_terminal:

        def picture() -> RenderableType:
            width, height = min(60, console.width // 2 - 1), max(5, min(18, console.height - 8))
            return Columns([voice.panel(width, height) for voice in voices])

        with Live(picture(), console=console, auto_refresh=False) as live:
            while not speaking.done():
                await asyncio.sleep(0.05)
                live.update(picture(), refresh=True)
    else:
        while not speaking.done():
            await asyncio.sleep(0.005)
            for voice in voices:
                for line in voice.new_lines(done=False):
                    say(console, line, markup=False)
        for voice in voices:
            for line in voice.new_lines(done=True):
                say(console, line, markup=False)
    await speaking
    first, second = voices
    if first.turns[-1] < second.turns[0] or second.turns[-1] < first.turns[0]:
        raise DemoError("expected the two sessions to take turns, but one ended before the other began")


async def retry_a_step(address: str, session: AsyncSession, console: Console) -> None:
    """Send one step twice, as a client does whose answer was lost with the connection."""
    async with AsyncClient(address) as elsewhere:
        before = session.position
        again = await elsewhere.attach(session.session_id)  # at the same position, on a connection of its own
        first = await session.step(text="a", logits=True)
        second = await again.step(text="a", logits=True)
        after = (await session.describe()).position
    say(console, f"  position {before}, step 'a'       -> {first.text!r}, position {first.position}")
    say(
        console,
        f"  position {before}, step 'a' again -> {second.text!r}, position {second.position}, "
        f"replayed: {second.replayed}",
    )
    same = (
        first.logits is not None
        and second.logits is not None
        and first.logits.tobytes() == second.logits.tobytes()
    )
    if not (same and second.replayed and not first.replayed and after == before + 1):
        raise DemoError(f"the retried step gave another answer: {first} and {second}, position {after}")
    say(
        console,
        f"  All {first.logits.size if first.logits is not None else 0} logits have the same bits; "
        f"the session moved once, to position {after}.",
    )


async def show_kept_state(address: str, session: AsyncSession, history: str, console: Console) -> None:
    """A fresh session fed all the text knows no more than the one that the server kept."""
    async with AsyncClient(address) as elsewhere:
        kept = await elsewhere.attach(session.session_id)
        answer = await kept.step(text="b", logits=True)
        async with elsewhere.open(session.model) as fresh:
            whole = await fresh.step(text=history + "b", logits=True)
    if answer.logits is None or whole.logits is None or answer.logits.tobytes() != whole.logits.tobytes():
        raise DemoError("the session that the server kept answers otherwise than its whole history")
    say(
        console,
        f"  One character sent to the kept session, or all {answer.position} to a fresh one: the same bits.",
    )


async def demonstrate(address: str, console: Console) -> None:
    names = await asyncio.to_thread(pick_models, address)
    async with (
        AsyncClient(address) as client,
        client.open(names[0]) as first,
        client.open(names[1]) as second,
    ):
        say(console, "\n[bold]Two sessions on two models, streaming at the same time[/bold]\n")
        voices = [Voice(first), Voice(second)]
        await stream_both(voices, console)
        say(console, "\n[bold]The same step sent twice is applied once[/bold]\n")
        await retry_a_step(address, first, console)
        say(console, "\n[bold]The server keeps the state[/bold]\n")
        # The last generated character was predicted, not applied.
        await show_kept_state(address, first, voices[0].text[:-1] + "a", console)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", type=Path, help="model repository instead of the bundled one")
    arguments = parser.parse_args()
    console = Console()
    begin = time.monotonic()
    try:
        say(console, "Starting a server ...")
        with running_server(arguments.models) as address:
            say(console, f"Ready at {address} after {time.monotonic() - begin:.1f} s.")
            asyncio.run(demonstrate(address, console))
        say(console, f"\nThe server has stopped. {time.monotonic() - begin:.0f} s in all.")
    except (DemoError, KeepgateError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
