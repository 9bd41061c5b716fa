"""The results of a suite as one HTML page that needs nothing else."""

from shaping_bench.publish.report.page import render_page, write_report

__all__ = ["render_page", "write_report"]
