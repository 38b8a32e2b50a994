"""`python -m anyserve`."""

from anyserve.cli import main

main(prog_name="anyserve")
