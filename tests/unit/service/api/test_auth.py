"""Tokens: their parsing, their names and their permissions."""

import hmac
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.api.http import auth
from service.api.http.auth import ANONYMOUS, Client, identify
from service.errors import Unauthorized
from service.settings import Settings


def settings(home: Path, tokens: str | None) -> Settings:
    return Settings(home=home, api_tokens=SecretStr(tokens) if tokens else None)


def test_without_configured_tokens_everybody_may_write(tmp_path: Path) -> None:
    for token in (None, "anything"):
        assert identify(settings(tmp_path, None), token) is ANONYMOUS
    assert ANONYMOUS.may_write


def test_a_token_names_its_client_and_what_it_may_do(tmp_path: Path) -> None:
    configured = settings(tmp_path, "alice:alices-token,bob:bobs-token:read,carol:carols-token:write")
    assert identify(configured, "alices-token") == Client("alice", may_write=True)
    assert identify(configured, "bobs-token") == Client("bob", may_write=False)
    assert identify(configured, "carols-token") == Client("carol", may_write=True)


@pytest.mark.parametrize("token", [None, "", "alices-toke", "alices-token ", "ALICES-TOKEN", "alice", "\udcff"])
def test_every_other_token_is_refused_without_being_repeated(tmp_path: Path, token: str | None) -> None:
    with pytest.raises(Unauthorized) as error:
        identify(settings(tmp_path, "alice:alices-token"), token)
    assert error.value.status == 401
    assert not token or token not in str(error.value)


@pytest.mark.parametrize("token", ["alices-token", "carols-token", "nobodys-token"])
def test_every_configured_token_is_compared_whichever_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    compared = 0

    def counting(a: bytes, b: bytes) -> bool:
        nonlocal compared
        compared += 1
        assert len(a) == len(b)  # digests are compared, so not even the length of a token leaks
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(auth, "compare_digest", counting)
    configured = settings(tmp_path, "alice:alices-token,bob:bobs-token,carol:carols-token")
    try:
        identify(configured, token)
    except Unauthorized:
        assert token == "nobodys-token"
    assert compared == 3
