"""Costs of pending exports in the triggerer, beside triggers of other providers: ``python -m benchmarks``."""
