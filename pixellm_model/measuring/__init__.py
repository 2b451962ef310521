"""Metrics, evaluation on data sets, reports."""
