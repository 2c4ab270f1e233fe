"""Saved views: shared by all users, with unique names."""

import pytest
from httpx2 import AsyncClient

from service.store import views

pytestmark = pytest.mark.anyio


async def test_a_view_is_kept_found_and_forgotten(http: AsyncClient) -> None:
    path = "/jobs?status=failed&sort=-test_error,created_at&columns=status,last"
    made = await http.post("/v1/views", json={"name": " what failed ", "path": path})
    assert made.status_code == 201
    assert (made.json()["name"], made.json()["path"]) == ("what failed", path)
    await http.post("/v1/views", json={"name": "All", "path": "/"})
    found = (await http.get("/v1/views")).json()["data"]
    assert [view["name"] for view in found] == ["All", "what failed"]
    assert found[1] == made.json()
    assert (await http.delete(f"/v1/views/{made.json()['id']}")).status_code == 204
    assert (await http.delete(f"/v1/views/{made.json()['id']}")).status_code == 404
    assert [view["name"] for view in (await http.get("/v1/views")).json()["data"]] == ["All"]


async def test_a_name_means_one_view(http: AsyncClient) -> None:
    await http.post("/v1/views", json={"name": "mine", "path": "/jobs"})
    refused = await http.post("/v1/views", json={"name": "mine", "path": "/cluster"})
    assert refused.status_code == 409
    assert "mine" in refused.json()["detail"]


@pytest.mark.parametrize(
    "path", ["", "jobs", "//example.org", "/\\example.org", "javascript:alert(1)", "https://example.org", "/a b", "/\n"]
)
async def test_a_view_leads_nowhere_else(http: AsyncClient, path: str) -> None:
    refused = await http.post("/v1/views", json={"name": "away", "path": path})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/path"


async def test_there_is_an_end_to_views(http: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MOST", 1)
    assert (await http.post("/v1/views", json={"name": "one", "path": "/"})).status_code == 201
    assert (await http.post("/v1/views", json={"name": "two", "path": "/"})).status_code == 409
