"""Measurements of what the service survives, on this machine: `make test-reliability`."""
