"""The `normlab` command: a noun a file, each on top of `service.client`.

Nothing that trains or stores is imported here, so that a command answers at once.
"""

from service.cli.application import main

__all__ = ["main"]
