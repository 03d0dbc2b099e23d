"""Comparing rewards over logged completions: which one to trust, without a GPU. `compare.py` is the entry point."""
