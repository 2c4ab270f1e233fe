"""The number of files and connections that this process and its children may have open (`ulimit -n`)."""

import resource
from contextlib import suppress

WANTED = 65536
"""The limit that is requested, as by Ray. A higher one makes programs slow that close every number up to it."""
RECOMMENDED = 4096


def raise_limit() -> str | None:
    """Raise the soft limit of open files towards the hard one.

    Returns:
        A warning if the limit is low, else None.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # some systems have a lower limit that they do not report
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= RECOMMENDED:
        return None
    return (
        f"This process may open {soft} files, and every connection and event stream is one: raise the limit to at "
        f"least {RECOMMENDED}, for example by `ulimit -Hn`"
    )
