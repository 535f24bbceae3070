"""What the S3 server on loopback does to requests: errors, cut connections, refusals."""

import random
from dataclasses import dataclass

from servers.fault_proxy import SeenRequest, Spoil

ERRORS, CUTS = 0.05, 0.02


@dataclass
class Faults:
    """The faults that the server answers with now; `slow_down` is a share of all requests.

    A call decides for one request; None lets it through.
    """

    rng: random.Random
    slow_down: float = 0.0
    refuses_deletes: bool = False
    is_expired: bool = False

    def __call__(self, sent: SeenRequest) -> Spoil | None:
        roll = self.rng.random()
        deletes = sent.method == "DELETE" or (sent.method == "POST" and "?delete" in sent.path)
        if self.is_expired:
            return _refusal(400, "ExpiredToken")
        if self.refuses_deletes and deletes:
            return _refusal(403, "AccessDenied")
        if roll < self.slow_down:
            return _refusal(503, "SlowDown")
        if roll < self.slow_down + ERRORS:
            return Spoil(status=500)
        return Spoil(cut=True) if roll < self.slow_down + ERRORS + CUTS else None


def _refusal(status: int, code: str) -> Spoil:
    return Spoil(status=status, body=f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")
