"""Evaluation of a model: metrics, official summaries, ensembles."""
