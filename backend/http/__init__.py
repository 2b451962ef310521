"""Serving HTTP to Label Studio: routes, login, limits, metrics."""
