"""What is asked for: names and hyperparameters, suites, protocols, line-ups, and the hashes that identify them."""
