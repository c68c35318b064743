"""`python -m keepgate` is the command `keepgate`."""

from keepgate.cli import app

app(prog_name="keepgate")
