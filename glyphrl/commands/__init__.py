"""The commands of `glyphrl`, one module each; everything heavy is imported inside the functions that run."""
