"""``python -m rvsm``: the command line."""

from rvsm.cli import main

if __name__ == "__main__":
    main()
