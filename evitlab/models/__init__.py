"""Networks: what they are (config, zoo: no torch) and how they are built (layers to weights: torch)."""
