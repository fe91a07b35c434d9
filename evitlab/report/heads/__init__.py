"""Tables, figures and files of head similarity."""
