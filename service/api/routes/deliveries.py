"""The deliveries of the webhook."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service.api.context import Context
from service.api.filters import Text
from service.api.http.problems import describe
from service.store import deliveries
from service.store.deliveries import DeliveryStatus

router = APIRouter(prefix="/v1/webhook/deliveries", tags=["webhook"])


class DeliveryView(BaseModel):
    """What the webhook is told of the end of a job or an experiment."""

    id: str = Field(description="the header webhook-id; the same in every try")
    event: str = Field(description="job.ended or experiment.ended")
    subject: str = Field(description="id of the job or the experiment")
    status: DeliveryStatus = Field(
        description="waiting: for the end of the experiment; pending: not accepted yet; failed: given up"
    )
    body: dict[str, Any] | None = Field(description="the body of the request; null while it waits")
    tries: int
    not_before: datetime = Field(description="time before which it is not sent again")
    answer: int | None = Field(description="HTTP status of the last answer")
    error: str | None = Field(description="why the last try failed")
    created_at: datetime
    ended_at: datetime | None


class Deliveries(BaseModel):
    """Deliveries, newest first."""

    data: list[DeliveryView]
    next_cursor: str | None = Field(description="pass it as `cursor`; null on the last page")


class DeliveriesQuery(BaseModel):
    """The deliveries to select, and their number."""

    model_config = ConfigDict(extra="forbid")

    status: list[DeliveryStatus] = Field(default_factory=list)
    limit: int = Field(default=50, ge=1, le=200, description="deliveries per page")
    cursor: Text | None = Field(default=None, description="next_cursor of the previous page")


@router.get("", operation_id="list_deliveries", responses=describe(401, 422))
async def find(context: Context, query: Annotated[DeliveriesQuery, Query()]) -> Deliveries:
    """The deliveries of the webhook: those under way, and those that have ended within 30 days."""
    async with context.database.read() as session:
        found, cursor = await deliveries.page(session, **query.model_dump())
    data = [DeliveryView.model_validate(one, from_attributes=True) for one in found]
    return Deliveries(data=data, next_cursor=cursor)
