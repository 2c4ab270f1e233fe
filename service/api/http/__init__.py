"""The protocol: authentication, middleware, problem details, content negotiation, ranges, idempotency."""
