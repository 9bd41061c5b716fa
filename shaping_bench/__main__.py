"""``python -m shaping_bench`` is the command line."""

import sys

from shaping_bench.start import main

sys.exit(main())
