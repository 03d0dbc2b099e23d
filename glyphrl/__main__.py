"""`python -m glyphrl` is the command `glyphrl`."""

import sys

from glyphrl.cli import main

sys.exit(main())
