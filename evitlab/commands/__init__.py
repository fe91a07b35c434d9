"""Commands, a module for each kind: parse, call, exit code."""
