"""`python -m trioserf`: the same as the program `trioserf`."""

from trioserf.cli.main import main

if __name__ == "__main__":
    main()
