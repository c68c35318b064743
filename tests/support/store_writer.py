"""A process that commits till it is killed: python store_writer.py URL SERVER_ID

Commit n brings each session to position n and puts n under FIRST and LAST. Once it has returned, n is
printed.
"""

from __future__ import annotations

import sys

from keepgate.sessions.stores import open_store
from keepgate.sessions.stores.base import Change

SESSIONS = [f"session-{number}" for number in range(300)]
EPOCH = 5
FIRST, LAST = b"first", b"last"
MOST_COMMITS = 100_000


def main() -> None:
    store = open_store(sys.argv[1], server_id=sys.argv[2])
    for position in range(1, MOST_COMMITS):
        value = str(position).encode()
        changes = [
            Change(name, EPOCH, position, {FIRST: value, LAST: value}, create=position == 1)
            for name in SESSIONS
        ]
        if store.commit(changes):
            raise RuntimeError("a change was refused")
        print(position, flush=True)


if __name__ == "__main__":
    main()
