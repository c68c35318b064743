"""Log lines on stderr, for people or as JSON. The standard library's loggers come out the same
way."""

from __future__ import annotations

import logging
import re
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from keepgate.telemetry.calls import add_call

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What moves a terminal's cursor, and what ends a line."""
TRACEBACKS = ("exception", "stack")


def configure_logs(log_format: Literal["human", "json"], level: str) -> None:
    """Send structlog and logging to stderr, at `level` and above."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        add_call,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Plain tracebacks: the fancy ones print local variables, and those hold what users sent.
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
        last = [escape_controls, console]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Numba logs every compiled byte code at debug level, and gRPC every message; nobody who debugs a server
    # wants that.
    logging.getLogger("numba").setLevel(logging.WARNING)
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.INFO)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_dead_call)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def escape_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor: a line for people stays one line, and moves no cursor."""
    for name, value in event.items():
        if isinstance(value, str) and name not in TRACEBACKS:
            event[name] = CONTROLS.sub(lambda found: repr(found[0])[1:-1], value)
    return event


def _is_no_dead_call(record: logging.LogRecord) -> bool:
    """gRPC logs an error, with a traceback, whenever an answer finds its client gone. That is the
    client's business and happens every day."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")
