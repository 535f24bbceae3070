"""What surrounds a run: secrets, the host that rents the machine out, destinations.

Read from settings and environment alone, and judged the same by `plan` and by `train`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tenner.core.errors import Problem
from tenner.core.secrets import Secrets, secrets_from
from tenner.engines.trackers import tracker_problems
from tenner.hosts import check_ending, find_host
from tenner.hosts.host import Host
from tenner.pipeline.lost_output import lost_output
from tenner.settings import Settings
from tenner.storage.destination import Destination
from tenner.storage.destination_address import parse_destinations
from tenner.ui.notify import webhook_problems


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """`host` is None on a machine of no known host; `problems` are all, notes too."""

    secrets: Secrets
    host: Host | None
    destinations: tuple[Destination, ...]
    problems: tuple[Problem, ...]


def read_surroundings(settings: Settings, environ: Mapping[str, str]) -> Surroundings:
    """Read all of it. Makes no request; faults are returned among `problems`, not raised."""
    secrets, problems = secrets_from(environ)
    host = find_host(environ, secrets)
    destinations, wrong = parse_destinations(settings.destinations)
    ending = check_ending(settings, host)
    lost = lost_output(settings, destinations, host)
    return Surroundings(
        secrets=secrets,
        host=host,
        destinations=destinations,
        problems=(
            *(*problems, *wrong, *ending, *lost, *webhook_problems(secrets)),
            *tracker_problems(settings, secrets, environ),
        ),
    )
