"""`python -m minilearner` is the command line."""

import sys

from minilearner.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
