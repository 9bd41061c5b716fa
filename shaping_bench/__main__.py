"""``python -m shaping_bench`` is the command line."""

import sys

from shaping_bench.cli import main

sys.exit(main())
