"""What a run does without where the keys of a bucket may not do everything, in the user's words."""

import json
from typing import Literal

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.storage.destination import Destination
from tenner.storage.permissions import Permissions

Retention = Literal["", "versions", "locked"]
"""What a bucket retains of a file that was removed or replaced: nothing, each version for ever, or
each version until its lock has ended."""


def growth_of(destination: Destination, retention: Retention) -> tuple[Problem, ...]:
    """That a bucket grows by each state that is replaced, and the rule that ends it."""
    if not retention:
        return ()
    until = msg(" until its lock has ended") if retention == "locked" else ""
    folder = destination.name_in_root(".tenner/")
    rule = {
        "ID": "tenner-old-states",
        "Status": "Enabled",
        "Filter": {"Prefix": folder},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
    }
    rules = json.dumps({"Rules": [rule]})
    return (
        Problem(
            text=msg(
                "{destination}: this bucket stores each version of a file{until}: it grows"
                " by a state at each save, and all of it is paid for",
                destination=destination,
                until=until,
            ),
            fix=msg(
                "add this rule to its lifecycle rules (aws s3api"
                " put-bucket-lifecycle-configuration --bucket {root}"
                " --lifecycle-configuration '{rules}'), or set keep_remote_states = 0",
                root=destination.root,
                rules=rules,
            ),
            level="warning",
        ),
    )


def limits_of(destination: Destination, permissions: Permissions) -> tuple[Problem, ...]:
    """What follows from the permissions that the keys lack; nothing where they have all."""
    if not permissions.reads:
        return (
            Problem(
                text=msg(
                    "{destination}: files can be written but not read back: each is"
                    " verified by the server's answer to its upload, no states are stored"
                    " there, and a run resumes from this machine's disk alone",
                    destination=destination,
                ),
                fix=msg("to resume from there, allow s3:GetObject too (docs/permissions.md)"),
                level="warning",
            ),
        )
    if not permissions.deletes:
        return (
            Problem(
                text=msg(
                    "{destination}: files can be written but not deleted: two states"
                    " overwrite each other in turn, and stay there after the delivery",
                    destination=destination,
                ),
                fix=msg("to have them removed, allow s3:DeleteObject too (docs/permissions.md)"),
                level="warning",
            ),
        )
    if not permissions.lists:
        return (
            Problem(
                text=msg(
                    "{destination}: names cannot be listed: two states overwrite each other"
                    " in turn, and an upload that is cut begins again",
                    destination=destination,
                ),
                fix=msg(
                    "to have cut uploads continued, allow s3:ListBucket too (docs/permissions.md)"
                ),
                level="note",
            ),
        )
    return ()
