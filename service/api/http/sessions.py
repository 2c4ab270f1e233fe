"""The session cookie, by which a browser that has signed in once stays signed in, in all of its tabs.

The cookie has the time at which it ends and a signature of that time by the token. No session is stored: every replica
knows those of its tokens, and the sessions of a token end when it is removed from the settings.
"""

import hashlib
import hmac
import time
from collections.abc import Iterable
from functools import lru_cache

from service.errors import Unauthorized

COOKIE = "normlab_session"
LASTS_S = 7 * 24 * 3600


def begin(token: str) -> str:
    """Return the value of the cookie of a session that begins now."""
    ends_at = str(int(time.time()) + LASTS_S)
    return f"{ends_at}.{_signature(token, ends_at)}"


def token_of(value: str, tokens: Iterable[str]) -> str:
    """Return the token that began a session. Raises `Unauthorized` if the session has ended, or none of them did."""
    ends_at, _, signature = value.partition(".")
    found = None
    # All tokens are compared, each in constant time, so that the duration reveals nothing about them.
    for token in tokens:
        if hmac.compare_digest(_signature(token, ends_at).encode(), signature.encode(errors="surrogateescape")):
            found = token
    if found is None or int(ends_at) < time.time():
        raise Unauthorized("The session has ended: sign in again.")
    return found


def _signature(token: str, ends_at: str) -> str:
    return hmac.new(_key(token), ends_at.encode(errors="surrogateescape"), "sha256").hexdigest()


@lru_cache(maxsize=1000)
def _key(token: str) -> bytes:
    # Slow on purpose: whoever has a cookie could otherwise try millions of tokens a second.
    return hashlib.scrypt(token.encode(), salt=b"normlab session", n=1 << 12, r=8, p=1, dklen=32)
