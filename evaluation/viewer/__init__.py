"""A local web page over live and finished runs: curves, groups of completions, predictions side by side.

`server.serve` starts it. The completions log is read once into a DuckDB file of the viewer's own (`index`), which
answers every page; a thread adds what a live run writes. Nothing of a run folder is ever changed.
"""
