"""Studies on Optuna: proposals, trials, workers, limits, early stopping."""
