"""Named views of the dashboard."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api.context import Context, ViewId
from service.api.http.problems import describe
from service.errors import Conflict
from service.store import ConstraintViolated, views

router = APIRouter(prefix="/v1/views", tags=["views"])

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class ViewRequest(BaseModel):
    """An address of the dashboard, and its name."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="unique among all views")
    # Browsers take // and /\\ for the beginning of the address of another server.
    path: str = Field(
        max_length=8000,
        pattern=r"^/([!-.0-\[\]-~][!-~]*)?$",
        description="path and query, as in /jobs?status=failed&sort=-test_error",
    )


class ViewView(BaseModel):
    """A named view."""

    id: str
    name: str
    path: str
    created_at: datetime


class Views(BaseModel):
    """All views, by name."""

    data: list[ViewView]


@router.get("", operation_id="list_views", responses=describe(401))
async def find(context: Context) -> Views:
    """The views of this installation, which all clients share."""
    async with context.database.read() as session:
        return Views(data=[ViewView.model_validate(view, from_attributes=True) for view in await views.find(session)])


@router.post("", operation_id="create_view", status_code=201, responses=describe(400, 401, 403, 409, 413, 415, 422))
async def create(context: Context, request: Annotated[ViewRequest, Body()]) -> ViewView:
    """Create a view."""
    try:
        async with context.database.write() as session:
            view = await views.create(session, request.name, request.path)
    except ConstraintViolated as error:
        raise Conflict(f"There is a view named {request.name} already.") from error
    return ViewView.model_validate(view, from_attributes=True)


@router.delete("/{view_id}", operation_id="delete_view", status_code=204, responses=describe(401, 403, 404))
async def delete(context: Context, view_id: ViewId) -> None:
    """Delete a view, for all clients."""
    async with context.database.write() as session:
        await views.delete(session, view_id)
