"""Links of experiments, on both databases."""

from datetime import timedelta

import pytest

from service.errors import Conflict, NotFound
from service.experiments.request import ExperimentRequest, expand
from service.store import Database, experiments, shares
from service.store.submitters import Submitter

pytestmark = pytest.mark.anyio


async def submit(database: Database) -> str:
    grid = {"normalization": [{"type": "batch"}], "batch_size": [2], "seed": [0]}
    request = ExperimentRequest.model_validate({"grid": grid}).resolved()
    async with database.write() as session:
        return (await experiments.create(session, request, expand(request), by=Submitter("ada"))).id


async def test_a_token_leads_to_its_share_until_that_is_revoked(database: Database) -> None:
    experiment = await submit(database)
    async with database.write() as session:
        lasting, token = await shares.create(session, experiment, anonymous=True, lasts=None, created_by="ada")
        _, expired = await shares.create(
            session, experiment, anonymous=False, lasts=timedelta(seconds=-1), created_by=None
        )
    assert shares.is_token(token)
    assert not shares.is_token("open-sesame")
    async with database.read() as session:
        found = await shares.of_token(session, token)
        assert found is not None
        assert (found.id, found.experiment_id, found.anonymous) == (lasting.id, experiment, True)
        assert token not in (found.token_sha256, found.id)
        assert await shares.of_token(session, expired) is None
        assert await shares.of_token(session, token[:-1] + ("A" if token[-1] != "A" else "B")) is None
    async with database.write() as session:
        with pytest.raises(NotFound):
            await shares.revoke(session, "experiment_1", lasting.id)
        await shares.revoke(session, experiment, lasting.id)
        assert await shares.of_token(session, token) is None


async def test_an_experiment_has_a_limited_number_of_shares(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = await submit(database)
    monkeypatch.setattr(shares, "MOST", 1)
    async with database.write() as session:
        await shares.create(session, experiment, anonymous=False, lasts=None, created_by=None)
        with pytest.raises(Conflict, match="has 1 shares"):
            await shares.create(session, experiment, anonymous=False, lasts=None, created_by=None)
        with pytest.raises(NotFound):
            await shares.create(session, "experiment_1", anonymous=False, lasts=None, created_by=None)
