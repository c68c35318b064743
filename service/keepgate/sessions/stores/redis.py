"""Sessions in a Redis that several servers share.

A session is one hash: its epoch, its owner, its position, and its items, whose names begin with a colon. Each
server has a lease, a key that expires unless `beat` renews it; a session may be claimed once its owner's
lease is over, or given back. Scripts check a session's epoch and write to it in one go, so a server that was
away while another claimed its session cannot write to it any more. A Redis Cluster is not supported: a script
touches keys of many slots.

What a commit outlives is for Redis to say: with appendonly and appendfsync always, its machine's power too.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from keepgate.errors import SessionElsewhereError, StoreError
from keepgate.sessions.stores.base import META, Change, Held, Refusal

CALL_SECONDS = 2.0
"""How long Redis may take to accept a connection, and to answer."""
DAY_MS = 86_400_000
MOST_LIFE_MS = 100 * 365 * DAY_MS
SCRIPT_SESSIONS = 128
SCRIPT_BYTES = 1 << 20
"""A script takes Redis's one thread for itself; with this much to do, for some milliseconds at most."""
ITEM = b":"
"""What the name of an item's field begins with."""
REFUSALS = (None, Refusal.EXISTS, Refusal.FENCED)
"""By the numbers of COMMIT."""

COMMIT = """
local owner, at = ARGV[1], 1
local function take() at = at + 1 return ARGV[at] end
local function each(command, key, count)  -- in parts, as Lua's stack is small
  local first, last = at + 1, at + count
  while first <= last do
    local stop = math.min(first + 999, last)
    redis.call(command, key, unpack(ARGV, first, stop))
    first = stop + 1
  end
  at = last
end
local results = {}
for index, key in ipairs(KEYS) do
  local epoch, creates, ends, life_ms = take(), take() == '1', take() == '1', take()
  local deletes, puts = tonumber(take()), tonumber(take())
  local there = redis.call('HMGET', key, 'epoch', 'owner', 'ended')
  local ours, over = there[1] == epoch and there[2] == owner, there[3]
  local result = 0
  if ours and over then
    result = ends and 0 or 2
  elseif not ours and there[1] and not over then
    result = creates and 1 or 2
  elseif not ours and not creates then
    result = 2
  end
  results[index] = result
  if result ~= 0 or ours and over then
    at = at + deletes + puts
  else
    if ends or not ours then
      redis.call('DEL', key)
      redis.call('HSET', key, 'epoch', epoch, 'owner', owner)
    end
    each('HDEL', key, deletes)
    each('HSET', key, puts)
    redis.call('PEXPIRE', key, life_ms)
  end
end
return results
"""
"""KEYS: sessions. ARGV: owner, and for each session its epoch, 1 if it is new, 1 if it ends, its life, the
number of fields to delete, that of fields and values to put, and all these."""

CLAIM = """
local there = redis.call('HMGET', KEYS[1], 'owner', 'ended', 'life')
if there[1] and not there[2] then
  if there[1] ~= ARGV[1] then
    local left_ms = redis.call('PTTL', ARGV[2] .. there[1])
    if left_ms ~= -2 then return math.max(left_ms, 1) end
  end
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  redis.call('HSET', KEYS[1], 'owner', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], there[3])
end
return redis.call('HGETALL', KEYS[1])
"""
"""KEYS: the session. ARGV: who claims it, what leases' keys begin with. Milliseconds if it must wait."""

GIVE_UP = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
"""KEYS: the lease. ARGV: what it has if it is still that of the process that calls."""

log = structlog.get_logger(__name__)


class RedisStore:
    """server_id: the owner's name; a successor of the same name has its sessions at once. lease_seconds:
    how long after its last beat a server keeps them for sure. prefix: what all keys begin with.

    Raises StoreError if Redis cannot be reached. No error has the URL in it, as it may hold a password.
    """

    shared = True

    def __init__(
        self, url: str, *, server_id: str, lease_seconds: float = 5.0, prefix: str = "keepgate:"
    ) -> None:
        self.lease_seconds = lease_seconds
        self._owner = server_id.encode()
        self._process = secrets.token_hex(16)
        self._sessions = f"{prefix}session:"
        self._leases = f"{prefix}server:"
        self._lease = self._leases + server_id
        try:
            # Every call may be repeated, and a connection that was idle for long may be broken.
            self._redis: Any = redis.Redis.from_url(  # its own types allow for awaitables everywhere
                url,
                protocol=2,
                socket_timeout=CALL_SECONDS,
                socket_connect_timeout=CALL_SECONDS,
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
        except (ValueError, TypeError):
            raise StoreError(
                "store: the URL is not valid, expected redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]"
            ) from None
        arguments = self._redis.connection_pool.connection_kwargs
        password = str(arguments.get("password") or "")
        self._secrets = [text for text in (password, quote(password, safe="")) if text]
        self._name = (
            f"{url.partition(':')[0]}://{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"
            f"/{arguments.get('db') or 0}"
        )
        self._commit = self._redis.register_script(COMMIT)
        self._claim = self._redis.register_script(CLAIM)
        self._give_up = self._redis.register_script(GIVE_UP)
        self._promise = ""
        try:
            self.beat()
            self._promise = self._read_promise()
        except StoreError:
            self._redis.close()
            raise

    def commit(self, changes: Sequence[Change]) -> Mapping[str, Refusal]:
        calls = [self._call(part) for part in _parts(changes)]
        results: list[int] = []
        with self._translated():
            if len(calls) == 1:
                results = self._commit(*calls[0])
            elif calls:
                pipeline = self._redis.pipeline(transaction=False)
                for keys, arguments in calls:
                    self._commit(keys, arguments, client=pipeline)
                results = [result for answer in pipeline.execute() for result in answer]
        answers = zip(changes, (REFUSALS[result] for result in results), strict=True)
        return {change.session_id: refusal for change, refusal in answers if refusal is not None}

    def held(self) -> Iterator[Held]:
        """None: others may have claimed them. They come by `claim` as they are asked for."""
        return iter(())

    def load(self, session_id: str) -> Held | None:
        with self._translated():
            fields: dict[bytes, bytes] = self._redis.hgetall(self._sessions + session_id)
        if fields.get(b"owner") != self._owner or b"ended" in fields:
            return None
        return self._held(session_id, fields)

    def meta(self, session_id: str) -> bytes | None:
        with self._translated():
            meta: bytes | None = self._redis.hget(self._sessions + session_id, ITEM + META)
        return meta

    def claim(self, session_id: str) -> Held | None:
        with self._translated():
            answer: int | list[bytes] = self._claim(
                [self._sessions + session_id], [self._owner, self._leases]
            )
        if isinstance(answer, int):
            raise SessionElsewhereError(session_id, answer / 1_000)
        fields = dict(zip(answer[::2], answer[1::2], strict=True))
        return self._held(session_id, fields) if fields else None

    def beat(self) -> None:
        with self._translated():
            self._redis.set(self._lease, self._process, px=_milliseconds(self.lease_seconds))

    def describe(self) -> str:
        return f"{self._name}{self._promise}"

    def close(self) -> None:
        """End the lease, so that others may claim this server's sessions at once."""
        try:
            with self._translated():
                self._give_up([self._lease], [self._process])
        finally:
            self._redis.close()

    # --- inside ---

    def _call(self, changes: Sequence[Change]) -> tuple[list[str], list[Any]]:
        """Keys and arguments of one COMMIT."""
        arguments: list[Any] = [self._owner]
        for change in changes:
            fields: list[Any] = ["position", change.position]
            if change.ended:
                deleted: list[bytes] = []
                life_ms = DAY_MS
                fields += ("ended", change.ended)
            else:
                deleted = [ITEM + key for key in change.delete]
                life_ms = min(_milliseconds(change.idle_seconds), MOST_LIFE_MS) + DAY_MS
                fields += ("life", life_ms)
                for key, value in change.put.items():
                    fields += (ITEM + key, value)
            arguments += (change.epoch, int(change.create), int(bool(change.ended)), life_ms)
            arguments += (len(deleted), len(fields), *deleted, *fields)
        return [self._sessions + change.session_id for change in changes], arguments

    def _held(self, session_id: str, fields: Mapping[bytes, bytes]) -> Held:
        try:
            epoch, position = int(fields[b"epoch"]), int(fields[b"position"])
        except (KeyError, ValueError) as error:
            raise StoreError(f"{self._name}: session {session_id!r} is damaged: {error}") from error
        items = {name.removeprefix(ITEM): value for name, value in fields.items() if name.startswith(ITEM)}
        return Held(session_id, epoch, position, items, fields.get(b"ended", b"").decode())

    def _read_promise(self) -> str:
        """What Redis says of how lasting its memory is; a warning if a commit may be lost."""
        try:
            with self._translated():
                found = self._redis.config_get("append*") | self._redis.config_get("maxmemory*")
        except StoreError as error:
            log.warning("Redis does not say how lasting it is", store=self._name, error=str(error))
            return ""
        config = {_text(name): _text(value) for name, value in found.items()}
        written, synced = config.get("appendonly", "?"), config.get("appendfsync", "?")
        if (written, synced) != ("yes", "always"):
            log.warning(
                "Redis may lose what it has acknowledged: expected appendonly yes and appendfsync always",
                store=self._name,
                appendonly=written,
                appendfsync=synced,
            )
        policy = config.get("maxmemory-policy", "noeviction")
        if config.get("maxmemory", "0") != "0" and policy != "noeviction":
            log.warning(
                "Redis drops sessions when its memory is full: expected maxmemory-policy noeviction",
                store=self._name,
                maxmemory_policy=policy,
            )
        return f" (appendonly {written}, appendfsync {synced})"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raises StoreError for whatever the client raises. Redis may repeat a command, with a password."""
        try:
            yield
        except redis.RedisError as error:
            text = plain = str(error)
            for secret in self._secrets:
                plain = plain.replace(secret, "***")
            cause = error if plain == text else None
            raise StoreError(f"{self._name}: {plain}") from cause


def _parts(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Changes for one script each: as many as SCRIPT_SESSIONS and SCRIPT_BYTES allow, but one at least."""
    part: list[Change] = []
    nbytes = 0
    for change in changes:
        size = sum(map(len, change.put.values()))
        if part and (len(part) == SCRIPT_SESSIONS or nbytes + size > SCRIPT_BYTES):
            yield part
            part, nbytes = [], 0
        part.append(change)
        nbytes += size
    if part:
        yield part


def _milliseconds(seconds: float) -> int:
    return max(1, round(1_000 * min(seconds, MOST_LIFE_MS)))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
