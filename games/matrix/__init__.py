"""Games given by a table of payoffs, repeated ones in both views."""
