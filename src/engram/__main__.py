"""`python -m engram` is the command `engram`."""

import sys

from engram.cli import main

sys.exit(main())
