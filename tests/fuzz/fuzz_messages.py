"""Fuzz a server with every request of keepgate.v1 and inference: `make fuzz-short`, or with options: --help.

An input is up to eight calls, one after the other or at once, of clients that may go away. Failures: a status
that says bug or hang, an error in the log, an answer too few, a session that ends for no reason a single
server has, and what remains when all sessions are closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import atheris

with atheris.instrument_imports(include=["keepgate"]):
    from fuzz.served import SERVICES, Served, serve

from fuzz.campaign import Campaign
from fuzz.dice import Dice
from fuzz.requests import Requests

CALLS = 8
IN_STREAM = 16
OFTEN = {"Step": 12, "Stream": 12, "StreamFrames": 8, "Generate": 6, "Open": 6, "Fork": 4, "Rewind": 4}
OFTEN |= {"Import": 4, "Score": 4, "Export": 3, "Describe": 2, "Close": 3}
OFTEN |= {"ModelInfer": 10, "ModelStreamInfer": 10}
RARELY = frozenset(("Admin",))
"""A change of what is loaded takes milliseconds, not microseconds."""
METHODS = [
    method
    for service in SERVICES
    if service.name not in RARELY
    for method in service.methods
    for _ in range(OFTEN.get(method.name, 1))
]
RARE = [method for service in SERVICES if service.name in RARELY for method in service.methods]
BY_NAME = {method.full_name: method for method in METHODS + RARE}
FOR_EVER = 60.0


class Calls:
    """Makes the calls of an input. `campaign` counts messages."""

    def __init__(self, served: Served, campaign: Campaign) -> None:
        self._served = served
        self._campaign = campaign
        self._requests = Requests(served.world)

    async def make(self, data: bytes) -> None:
        """Raises FoundError."""
        dice = Dice(data)
        together: list[asyncio.Task[None]] = []
        for _ in range(1 + dice.below(CALLS)):
            call = asyncio.ensure_future(self._call(dice))
            if dice.chance(60):
                together.append(call)
                if dice.chance(50):
                    await asyncio.sleep(0)
            else:
                await call
        await asyncio.gather(*together)
        self._served.check_log()

    def _call(self, dice: Dice) -> Coroutine[Any, Any, None]:
        """Chooses all there is to choose now; what comes back does it."""
        world = self._served.world
        patience = dice.below(20) / 2_000 if dice.chance(4) else FOR_EVER
        method = dice.pick(RARE) if dice.below(1_000) < 4 else dice.pick(METHODS)
        if method.client_streaming:
            requests = self._requests.of_stream(method, dice, dice.below(IN_STREAM + 1))
            self._campaign.count(method.full_name, max(1, len(requests)))
            return self._served.stream(method, requests, patience)
        request = self._requests.serialized(method, dice)
        if dice.chance(12) and world.requests:  # one that was sent before, again
            name, request = dice.pick(world.requests)
            method = BY_NAME[name]
        else:
            world.requests.append((method.full_name, request))
        self._campaign.count(method.full_name)
        if method.server_streaming:
            return self._served.server_stream(method, request, patience)
        return self._served.unary(method, request, patience)


def main() -> None:
    campaign = Campaign("messages", "messages", 1_000_000)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        served = runner.run(stack.enter_async_context(serve(campaign.seen)))
        calls = Calls(served, campaign)
        campaign.run(
            lambda data: runner.run(calls.make(data)),
            look=lambda: runner.run(served.rest()),
            end=lambda: runner.run(stack.aclose()),
        )


if __name__ == "__main__":
    main()
