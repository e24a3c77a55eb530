"""``python -m vmimg`` is the command ``vmimg``."""

import sys

from vmimg.cli import main

if __name__ == "__main__":
    sys.exit(main())
