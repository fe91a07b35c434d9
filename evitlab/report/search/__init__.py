"""What a search leaves: front, hypervolume, early stopping, importance."""
