"""`python -m phift.cli` is the command `phift`."""

from phift.cli.commands import program

program()
