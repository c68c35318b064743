"""Keepgate: a server of gated recurrent networks."""

from importlib.metadata import version

__version__ = version("keepgate")

__all__ = ["__version__"]
