"""Sessions that are stepped together, as rows of columns."""

from keepgate.columns.answer import Answer
from keepgate.columns.columns import Columns

__all__ = ["Answer", "Columns"]
