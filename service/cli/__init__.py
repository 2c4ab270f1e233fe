"""The `normlab` command: one module per noun, each based on `service.client`.

No module imports torch or SQLAlchemy when it is imported, so that commands start fast.
"""

from service.cli.application import main

__all__ = ["main"]
