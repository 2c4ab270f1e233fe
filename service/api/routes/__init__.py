"""The routers, one module per noun. No router imports another."""

from service.api.routes import (
    bundles,
    checkpoints,
    cluster,
    curves,
    dashboard,
    deliveries,
    evaluations,
    events,
    experiments,
    figures,
    health,
    jobs,
    logs,
    metrics,
    reference,
    reports,
    results,
    session,
    shares,
    specification,
    storage,
    views,
)

__all__ = ["OPEN", "PROTECTED", "missing_page"]

PROTECTED = tuple(
    noun.router
    for noun in (
        jobs,
        metrics,
        curves,
        logs,
        events,
        checkpoints,
        evaluations,
        experiments,
        shares,
        results,
        reports,
        figures,
        bundles,
        cluster,
        storage,
        views,
        deliveries,
    )
)
"""Routers whose requests need a token if tokens are configured."""

OPEN = tuple(noun.router for noun in (specification, session, health, reference, dashboard))
"""Routers that answer without a token; that of the session checks it itself."""

missing_page = dashboard.missing_page
