"""`python -m sublinattn`."""

from .cli import main

main()
