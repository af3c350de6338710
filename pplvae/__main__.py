"""`python -m pplvae`."""

from pplvae.cli import main

main()
