"""What is measured: a metric is an entry of ``METRICS`` in ``definitions.py``."""
