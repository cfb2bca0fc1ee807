"""`python -m sharkstore`: the command line."""

from sharkstore.cli.main import main

if __name__ == "__main__":
    main()
