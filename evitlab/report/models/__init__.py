"""Tables, figures and page of the commands on models."""
