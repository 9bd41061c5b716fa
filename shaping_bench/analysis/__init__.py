"""From stored results to what is concluded: statistics, comparisons, scores, sweeps, meta-games."""
