"""`sublinattn` and `python -m sublinattn`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends as quietly as later on."""
    try:
        from .cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
