"""`minilearner env`."""

from __future__ import annotations

import click

from minilearner.command_line.session import Session, command

__all__ = ["run"]


@command("env")
@click.option("--device", metavar="NAME", help='Such as "cpu" or "cuda:1"; the GPU by default if there is one.')
def run(session: Session, device: str | None) -> None:
    """Show versions, the device, the precision that `auto` chooses and why."""
    from minilearner.environment import describe_environment

    found = describe_environment(device)
    session.show(found.to_dict(), str(found))
