"""Tasks that measure a model: each is a function from a built model to a frozen dataclass of numbers."""
