"""The `sharkstore` command: its sub-commands, and the one place where errors become messages."""

from __future__ import annotations

import signal
import sys

import click

from sharkstore import __version__
from sharkstore.cli.convert import convert
from sharkstore.cli.diff import diff
from sharkstore.cli.inspect import inspect
from sharkstore.cli.lookup import lookup
from sharkstore.cli.stats import stats
from sharkstore.cli.verify import verify
from sharkstore.errors import SharkstoreError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sharkstore")
def cli() -> None:
    """Embedding tables in mixed precision: convert, inspect, verify, compare, look up.

    Results go to stdout, messages and progress to stderr. Exit 0: done; 1: failed; 2: usage.
    """


for command in (convert, inspect, verify, diff, lookup, stats):
    cli.add_command(command)


def main() -> None:
    """Run the command line; failures are one message and exit 1."""
    # a stopped job cleans up as an interrupted one does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (SharkstoreError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
