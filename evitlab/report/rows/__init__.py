"""One tidy table over all folders: `evitlab.load`, `pareto`, `compare`, and what `evitlab show` prints of it."""
