"""`python -m evitlab` is `evitlab`."""

from evitlab.cli import main

main()
