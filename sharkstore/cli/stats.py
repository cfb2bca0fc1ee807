"""`sharkstore stats`: what was measured on the training side; a module for each of its commands."""

from __future__ import annotations

import click

from sharkstore.cli.stats_count import count
from sharkstore.cli.stats_merge import merge
from sharkstore.cli.stats_show import show


@click.group()
def stats() -> None:
    """Stats files: how much rows are used, what fields are worth."""


for command in (show, merge, count):
    stats.add_command(command)
