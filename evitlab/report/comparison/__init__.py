"""The paper's differences beside ours, with intervals over seeds."""
