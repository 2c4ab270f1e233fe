"""The HTTP API: `routes` has one router per noun, `schemas` the JSON bodies, `http` the protocol."""
