"""Scores: what predictions are worth, beside chance and baselines, with their uncertainty.

The subject is the unit of inference: every score is taken within each subject, then averaged;
windows are never treated as independent.
"""
