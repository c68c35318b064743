"""What one can do with a whole session: copy it, take it back, carry it elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepgate.errors import InvalidArgumentError, NotRetainedError
from keepgate.models.registry import LoadedModel
from keepgate.sessions import blob
from keepgate.sessions.durability import Durability
from keepgate.sessions.session import Session

if TYPE_CHECKING:
    from keepgate.directory import Outcome
    from keepgate.sequences import Sequences


async def fork(
    sequences: Sequences,
    session: Session[Outcome],
    session_id: str = "",
    *,
    ttl: float | None = None,
    durability: Durability | None = None,
) -> Session[Outcome]:
    """A new session with the state and the history of one at rest; they share the state till one is stepped.

    ttl, durability: None means those of the session. Raises SessionBusyError, SessionGoneError, and as
    `Sequences.open`.
    """
    sequences.check_idle(session)
    meta = session.keeping.meta
    durability = meta.durability if durability is None else durability
    await sequences.clear(session_id, durability)
    history = await sequences.residents(session.model).recall(session)
    sequences.check_idle(session)
    return await sequences.begin(
        sequences.model_of(session),
        session_id,
        history.fork(),
        ttl=meta.ttl if ttl is None else ttl,
        durability=durability,
        twin_of=session,
        field="fork_id",
    )


async def rewind(sequences: Sequences, session: Session[Outcome], position: int) -> None:
    """Take a session at rest back to a position that it retains; what came after it never was.

    Raises NotRetainedError, SessionBusyError, SessionGoneError, StoreUnavailableError.
    """
    sequences.check_idle(session)
    keeping = session.keeping
    sequences.keeper.check_usable(keeping.durability)
    residents = sequences.residents(session.model)
    history = await residents.recall(session)
    sequences.check_idle(session)
    if not history.oldest <= position <= session.position:
        raise NotRetainedError(session.session_id, position, history.oldest, session.position)
    if position == session.position:
        return
    residents.leave(session)
    keeping.restore(history)
    history.rewind(position)
    sequences.table.move(session, position)
    residents.bring(session)
    if keeping.durability is Durability.ALWAYS:
        await sequences.keeper.stored(keeping)
    elif keeping.durability is Durability.EVERYSEC:
        keeping.write()


async def export(sequences: Sequences, session: Session[Outcome]) -> bytes:
    """A session at rest as bytes, which `import_session` takes anywhere the same weights are.

    Raises SessionBusyError, SessionGoneError, StoreUnavailableError.
    """
    sequences.check_idle(session)
    position, meta = session.position, session.keeping.meta
    state = await sequences.residents(session.model).state(session)
    header = blob.Header(*meta.model, meta.weights, meta.kernel, position, len(state))
    return blob.pack(header, state)


async def import_session(
    sequences: Sequences,
    model: LoadedModel | None,
    packed: bytes,
    session_id: str = "",
    *,
    ttl: float | None = None,
    durability: Durability | None = None,
) -> Session[Outcome]:
    """A new session that goes on where an exported one was. model None: the one that the blob names.

    Raises InvalidArgumentError if the blob is damaged or of other weights, ModelNotFoundError, and as
    `Sequences.open`.
    """
    try:
        header, state = blob.unpack(packed)
    except ValueError as error:
        raise InvalidArgumentError("blob", str(error), "what Export returned") from error
    if model is None:
        model = sequences.registry.with_weights(header.weights) or sequences.registry.get(
            header.model, header.version, field="blob"
        )
    expected = model.network.fingerprint
    if header.weights != expected:
        raise InvalidArgumentError(
            "blob",
            f"a session of weights {header.weights}",
            f"one of the weights of model {model.key.name!r} version {model.key.version}, {expected}",
        )
    if header.state_bytes != model.spec.state_bytes:
        raise InvalidArgumentError(
            "blob", f"a state of {header.state_bytes} bytes", f"{model.spec.state_bytes} bytes"
        )
    if not model.network.takes(state):
        raise InvalidArgumentError("blob", "an h beyond 1", "from -1 to 1, where int8 has its scale")
    await sequences.clear(session_id, durability)
    history = sequences.residents(model.key).history(header.position, state)
    return await sequences.begin(model, session_id, history, ttl=ttl, durability=durability)
