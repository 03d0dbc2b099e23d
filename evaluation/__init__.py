"""Measuring what a model reads: metrics, prediction, confidence intervals, summaries and reports.

Nothing is imported here, so that `import glyphrl.evaluation` costs nothing. No module of this package imports
torch.
"""
