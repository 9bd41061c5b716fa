"""Published numbers and whether ours agree: ``shaping-bench verify``. Claims stand in ``configs/claims/``."""
