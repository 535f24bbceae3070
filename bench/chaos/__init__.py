"""Kill and disturb runs at random moments, and check that each ends as it should.

    python -m bench.chaos [--runs 100] [--kills 3] [--seed 1] [--stand-in] [--progress FILE]
        [--seconds 600]

Each run trains the tiny base (with --stand-in: a stand-in for sd-scripts) to an S3 server on
loopback that fails now and then (5 % errors, 2 % cut connections), and is killed up to `kills`
times with SIGKILL at a random moment: while it checks, loads, trains, saves or delivers. A moment
is taken from the undisturbed run and found again by the number of lines in the log, so that a busy
machine moves no kill towards the beginning. It is started again in the same directory, or on an
empty machine that knows only the destination.
Each run also has one further trouble, in turn:

- kills: none;
- trainer kills: the trainer alone is killed, while its supervisor lives;
- full disk: its disk fills at a random moment, and has space again at the next start;
- refused deletes: the server answers each DELETE with 403;
- slow down 20, 40, 60: that share of all requests is answered 503 SlowDown;
- expired token: every request is refused from a random moment until the next start;
- half-open sockets: its page is served, and 300 connections send it half a request;
- folder wiped: it is sent to a folder, all of which is removed at a random moment.

Every run has to end delivered, with every step exactly once in its curve, weights equal to those of
an undisturbed run, nothing at the destination that is not what its manifest says, a ledger whose
attempts add up to the run, whole lines in its log, and nothing left behind in its directory, at a
folder destination and in the folder for temporary files. With --progress each run's history is
written as it ends, and a later start does only those that are missing; --seconds begins no run
later.
"""

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path[:0] = [str(_TESTS / "run"), str(_TESTS / "delivery")]

from bench.chaos.runs import chaos  # noqa: E402

__all__ = ["chaos"]
