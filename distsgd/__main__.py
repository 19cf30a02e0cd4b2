"""`python -m distsgd`: the command line."""

import sys

from distsgd.cli import main

if __name__ == "__main__":
    sys.exit(main())
