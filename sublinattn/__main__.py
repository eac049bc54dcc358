"""`python -m sublinattn`."""

from .cli import app

app(prog_name="sublinattn")
