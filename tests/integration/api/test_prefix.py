"""Behind a proxy that serves the API under a prefix, every link has the prefix, whether the proxy removes it or not."""

import re

import pytest
from httpx2 import AsyncClient

from service.app import create_app
from service.settings import Settings
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import BODY

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("root_path", ["/v1", "/jobs/of/mine", "/assets", "/docs"])
async def test_a_path_of_the_service_is_no_prefix(settings: Settings, root_path: str) -> None:
    with pytest.raises(ValueError, match=rf"NORMLAB_ROOT_PATH is {root_path}, and /\w+ is a path of the service"):
        create_app(Settings(home=settings.home, root_path=root_path))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(home=settings.home, port=0, root_path="/lab")


@pytest.mark.parametrize("arrives", ["", "/lab"], ids=["removed", "kept"])
async def test_links_have_the_prefix_and_paths_may(http: AsyncClient, reporter: Reporter, arrives: str) -> None:
    created = await http.post(f"{arrives}/v1/jobs", json=BODY)
    job = created.json()
    assert created.headers["location"] == job["links"]["self"] == f"/lab/v1/jobs/{job['id']}"
    assert set(job["links"].values()) >= {f"/lab/v1/jobs/{job['id']}/{noun}" for noun in ("metrics", "events")}
    await reporter.start()
    checkpoint = await reporter.checkpoint(1, 10, {"state.pt": b"x"})
    found = (await http.get(f"{arrives}/v1/checkpoints/{checkpoint}")).json()
    assert found["files"][0]["url"] == f"/lab/v1/checkpoints/{checkpoint}/files/state.pt"
    assert (await http.get(found["files"][0]["url"])).content == b"x"
    experiment = await http.post(f"{arrives}/v1/experiments", json={"base": BODY, "grid": {"seed": [0]}})
    assert experiment.headers["location"] == experiment.json()["links"]["self"]
    assert all(link.startswith("/lab/v1/") for link in experiment.json()["links"].values())


@pytest.mark.parametrize("arrives", ["", "/lab"], ids=["removed", "kept"])
async def test_pages_load_from_under_the_prefix(http: AsyncClient, arrives: str) -> None:
    page = (await http.get(f"{arrives}/jobs")).text
    loaded = re.findall(r'(?:href|src|content)="(/[^"]+)"', page)
    assert len(loaded) > 5
    for path in loaded:
        assert path.startswith("/lab/"), path
        assert (await http.get(arrives + path.removeprefix("/lab"))).status_code == 200, path
    assert (await http.get(f"{arrives}/docs")).text == page
    assert (await http.get(f"{arrives}/openapi.json")).json()["servers"] == [{"url": "/lab"}]
    assert (await http.get("/laboratory/jobs")).status_code == 404
    assert (await http.get("/lab")).text == (await http.get("/lab/")).text == page
