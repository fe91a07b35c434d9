"""What each task measures, as plain data."""
