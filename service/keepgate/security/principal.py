"""Whose call is being served."""

from __future__ import annotations

from contextvars import ContextVar

NOBODY = ""
"""The principal of every caller of a server that knows no principals, and of the sessions opened there."""

CALLER: ContextVar[str] = ContextVar("keepgate_caller", default=NOBODY)
"""Set by the interceptor, in the call's own context. Tasks that the call starts inherit it."""


def caller() -> str:
    """The principal of the call in whose context this runs."""
    return CALLER.get()
