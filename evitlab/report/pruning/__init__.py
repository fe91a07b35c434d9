"""Tables, figures and page of prunings."""
