"""What the commands on models do, without a study: bench, train, compare heads, prune."""
