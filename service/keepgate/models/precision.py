"""Which precision each model is loaded in: "int8" for all, "NAME=bf16" for one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

EXACT = "fp32"
"""The precision that model files are in, and that none is more exact than."""
ALL = "all"
"""What stands for every precision that there is."""


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """default is for every model that `special`, by NAME or NAME/VERSION, does not name."""

    default: str = EXACT
    special: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: object) -> PrecisionChoice:
        """Read "int8", "NAME=int8" or "NAME/VERSION=int8": one, several with commas, or a list of these.

        Of two for the same model the later one counts, as of two flags. Raises ValueError naming the
        part at fault.
        """
        if isinstance(value, cls):
            return value
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"precision: got {value!r}, expected a text or a list of texts")
        default, special = EXACT, {}
        for part in ",".join(texts).split(","):
            model, equals, precision = (piece.strip() for piece in part.rpartition("="))
            check_precision(precision)
            if not equals:
                default = precision
            elif model:
                special[model] = precision
            else:
                raise ValueError(f"precision: got {part.strip()!r}, expected NAME={precision}")
        return cls(default, special)

    def of(self, name: str, version: str) -> str:
        """The precision of one version of a model. The more specific choice counts."""
        by_name = self.special.get(name, self.default)
        return self.special.get(f"{name}/{version}", by_name)

    def __str__(self) -> str:
        return ",".join((self.default, *(f"{model}={name}" for model, name in self.special.items())))


def check_precision(precision: str) -> None:
    """Raises ValueError unless the kernels of this installation know the precision."""
    from keepgate_kernels import PRECISIONS  # noqa: PLC0415 - it imports Numba, and the settings' help does not

    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")


def parse_precisions(texts: Iterable[str]) -> list[str]:
    """The precisions named, each text one, several with commas, or "all"; the most exact first, each once.

    Raises ValueError naming the one that is unknown.
    """
    from keepgate_kernels import PRECISIONS  # noqa: PLC0415 - as above

    wanted = {part.strip() for text in texts for part in text.split(",")}
    for name in sorted(wanted - {ALL}):
        check_precision(name)
    return [name for name in PRECISIONS if name in wanted or ALL in wanted]
