"""Robust finetuning of vision foundation models."""
