"""The package as others import it."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys

import keepgate_client
import pytest
from grpc import StatusCode
from keepgate_client import (
    AsyncClient,
    AsyncGroup,
    AsyncSession,
    AsyncStream,
    Client,
    Group,
    RetryPolicy,
    Session,
    Stream,
    errors,
)

PUBLIC = """
AnswerLostError AsyncClient AsyncGroup AsyncSession AsyncStream CallCancelledError CallsExhaustedError
CategoricalHeadInfo Client ComputationError ConnectionAgedError DeadlineExceededError DrainingError
Durability ErrorDetails ExhaustedError FeatureInputInfo FieldViolation FinishReason Frame Group
InvalidArgumentError
KeepgateError LayerInfo LayerState LinearHeadInfo MessageTooLargeError ModelInfo ModelNotFoundError
ModelRefusedError NotFiniteError NotRetainedError PositionError PositionMismatchError PrecisionInfo
Precondition Prediction Quota Residency Resource RetryPolicy Score ServerError Session SessionBusyError
SessionClosedError SessionElsewhereError SessionError SessionExistsError SessionExpiredError
SessionGoneError SessionInUseError SessionInfo SessionLostError SessionModelError SessionMovedError
SessionNotFoundError SessionsExhaustedError StepMismatchError StepSkippedError StepsExhaustedError
StepsLostError StoreUnavailableError Stream Token TokenInputInfo TokenProbability TransportError
UnexpectedStatusError UnreachableError WorkInFlightError __version__ service_config
TLS AccessError ScopeMissingError TokenExpiredError TokenInvalidError TokenMissingError
"""


def test_exported_names() -> None:
    assert sorted(keepgate_client.__all__) == sorted(PUBLIC.split())
    for name in keepgate_client.__all__:
        assert hasattr(keepgate_client, name), name


@pytest.mark.parametrize(
    ("sync", "aio"),
    [(Client, AsyncClient), (Session, AsyncSession), (Stream, AsyncStream), (Group, AsyncGroup)],
)
def test_sync_and_asyncio_have_the_same_methods(sync: type, aio: type) -> None:
    def signatures(kind: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: [
                parameter.replace(annotation=inspect.Parameter.empty)
                for parameter in inspect.signature(member).parameters.values()
            ]
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert signatures(sync) == signatures(aio)


def test_every_error_is_in_the_drawn_tree() -> None:
    classes = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)
    ]
    drawn = (errors.__doc__ or "").replace(",", " ").split()
    assert {kind.__name__ for kind in classes} <= set(drawn)


def test_importing_loads_neither_numba_nor_the_server() -> None:
    code = (
        "import sys, keepgate_client;"
        "print([m for m in sys.modules if m.split('.')[0] in ('numba', 'keepgate', 'keepgate_kernels')])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_errors_survive_pickling() -> None:
    error = errors.PositionMismatchError(
        "position: got 3, expected 5",
        code=StatusCode.FAILED_PRECONDITION,
        reason="POSITION_MISMATCH",
        metadata={"position": "3", "expected_position": "5", "session_id": "s"},
        retry_after=0.5,
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made one line above
    assert type(copy) is errors.PositionMismatchError
    assert (str(copy), copy.code, copy.retry_after) == (str(error), error.code, 0.5)
    assert (copy.expected_position, copy.position, copy.session_id) == (5, 3, "s")


def test_backoff_grows_within_its_bounds_and_heeds_the_server() -> None:
    policy = RetryPolicy(attempts=5, initial_backoff=0.1, multiplier=2, max_backoff=0.3)
    broken = errors.UnreachableError("gone", code=StatusCode.UNAVAILABLE)
    for failures, bound in ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.3)):
        delays = [policy.delay(failures, broken) or 0.0 for _ in range(100)]
        assert bound / 2 <= min(delays) < max(delays) <= bound
    assert policy.delay(5, broken) is None
    busy = errors.StepsExhaustedError("full", code=StatusCode.RESOURCE_EXHAUSTED, retry_after=2.5)
    assert policy.delay(1, busy) == 2.5
    for final in (
        errors.SessionClosedError("closed", code=StatusCode.NOT_FOUND),
        errors.DeadlineExceededError("late", code=StatusCode.DEADLINE_EXCEEDED),
    ):
        assert policy.delay(1, final) is None


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"initial_backoff": 0.0}, {"multiplier": 0.5}])
def test_retry_policy_refuses_nonsense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
