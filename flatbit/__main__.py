"""``python -m flatbit``: the command line where the console script is not at hand."""

from .cli import main

if __name__ == "__main__":
    main()
