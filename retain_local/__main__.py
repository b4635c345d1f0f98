"""`python -m retain_local`: the command line."""

from .cli import main

main()
