"""Games on a board, played only."""
