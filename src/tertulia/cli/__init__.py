"""The command line: `tertulia`, or `python -m tertulia`."""

from tertulia.cli.app import main

__all__ = ["main"]
