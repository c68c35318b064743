"""A TCP proxy that does to connections what networks do: cut, reset, delay, swallow, refuse."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

CHUNK = 65_536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 seconds: closing sends RST and throws away what is unsent."""


class Proxy:
    """Forwards connections to `upstream` ("host:port") until told to misbehave.

    upstream: may be changed, for new connections.
    delay: seconds by which each piece from the server is late. budget: called for each new
    connection; after so many bytes from the server the connection is reset
        in the middle of them. None never resets.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.delay = 0.0
        self.budget: Callable[[], int | None] = lambda: None
        self.connections = 0
        self._swallow = False
        self._mute: set[socket.socket] = set()  # servers whose answers are swallowed to the end
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._port = 0
        self._listener: socket.socket | None = None
        self.listen()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.reset()
        for thread in self._threads:
            thread.join(10)

    def listen(self) -> None:
        """Take connections, at the same address after `refuse`."""
        self._listener = listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self._start(self._accept, listener)

    def refuse(self) -> None:
        """Take no more connections. Those that there are live on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # On Linux, close alone does not wake a thread in accept().
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def swallow_answers(self) -> None:
        """From now on nothing from the server arrives, until `reset`; requests still go through."""
        with self._lock:
            self._swallow = True
            self._mute.update(server for _, server in self._pairs)

    def reset(self) -> None:
        """Reset all connections (RST). New ones work."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self._swallow = False
        for pair in pairs:
            _reset(*pair)

    def cut(self) -> None:
        """End all connections in order (FIN). New ones work."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _shutdown(end)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # `refuse` closed it
            host, port = self.upstream.rsplit(":", 1)
            server = socket.create_connection((host, int(port)))
            with self._lock:
                self._pairs.append((client, server))
                if self._swallow:
                    self._mute.add(server)
                self.connections += 1
            self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        up = threading.Thread(target=_pump, args=(client, server), daemon=True)
        up.start()
        self._pump_answers(server, client)
        up.join()
        client.close()
        server.close()

    def _pump_answers(self, server: socket.socket, client: socket.socket) -> None:
        left = self.budget()
        try:
            while data := server.recv(CHUNK):
                if self.delay:
                    time.sleep(self.delay)
                if server in self._mute:
                    continue
                if left is not None:
                    client.sendall(data[:left])
                    left -= len(data)
                    if left <= 0:
                        _reset(client, server)
                        return
                else:
                    client.sendall(data)
        except OSError:
            pass  # one end is gone; so will be the other
        _shutdown(client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
    except OSError:
        pass  # one end is gone; so will be the other
    _shutdown(sink)


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            # Wakes the thread that reads; that thread closes the socket, which sends the RST.
            end.shutdown(socket.SHUT_RD)
        except OSError:
            continue  # closed already


def _shutdown(end: socket.socket) -> None:
    try:
        if end.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(RESET_ON_CLOSE)) == RESET_ON_CLOSE:
            return  # an orderly end would come before the RST
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # closed already
