"""shaping-bench: the benchmark of opponent shaping."""

__version__ = "0.1.0"
