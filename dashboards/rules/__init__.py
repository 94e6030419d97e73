"""Prometheus rules, and what README tells of them."""
