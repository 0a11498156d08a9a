"""``python -m scarce_cli`` and the ``scarce`` command."""

from scarce_cli.cli import main

if __name__ == "__main__":
    main()
