"""`python -m imlctl` does what `imlctl` does."""

from imlctl.cli import main

main()
