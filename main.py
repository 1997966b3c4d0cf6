"""Run `uv run main.py --help` for the list of commands."""

from longview.cli import main

if __name__ == "__main__":
    main()
