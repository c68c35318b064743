"""How much of a session outlives its server."""

from enum import StrEnum


class Durability(StrEnum):
    """What survives the process: nothing; all but the last second; all that was acknowledged."""

    NONE = "none"
    EVERYSEC = "everysec"
    ALWAYS = "always"
