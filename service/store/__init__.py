"""What the service remembers: tables, and a module of queries a noun. SQLite and PostgreSQL, one code path.

Every function takes a session and runs in the caller's transaction; the caller opens it with `Database.read()` or
`Database.write()`, so that what belongs together is committed together.
"""

from service.store.database import Database

__all__ = ["Database"]
