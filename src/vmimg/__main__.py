"""``python -m vmimg`` is the command ``vmimg``."""

from vmimg.cli import program

if __name__ == "__main__":
    program()
