"""Samples: their schema, one importer per input format, images, splits and checks."""
