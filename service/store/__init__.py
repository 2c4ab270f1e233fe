"""The database: tables, migrations, and one module of queries for each noun. SQLite and PostgreSQL share one code path.

Every function takes a session and runs in the transaction of its caller, who opens it with `Database.read()` or
`Database.write()`. No module outside this package imports SQLAlchemy: the session type and the exceptions that callers
handle are exported here.
"""

from service.store.database import ConstraintViolated, Database, DatabaseError, Session
from service.store.notifications import Channel

__all__ = ["Channel", "ConstraintViolated", "Database", "DatabaseError", "Session"]
