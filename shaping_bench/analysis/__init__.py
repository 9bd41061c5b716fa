"""From stored results to what is concluded: statistics, comparisons, leaderboard, sweeps, meta-games."""
