"""What methods are made of: estimators, networks and policies, models of the opponent, joint directions."""
