"""The shipped configurations; `glyphrl quickstart` reads its own from here."""
