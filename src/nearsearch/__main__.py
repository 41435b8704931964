"""Run the command line: ``python -m nearsearch``."""

import sys

from nearsearch.cli import main

sys.exit(main())
