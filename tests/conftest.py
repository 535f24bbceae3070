"""What all tests share: examples are judged by what they show, never by this machine's speed."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("tenner", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tenner")

# Tests run side by side, one for each core: threads of one would wait for those of another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
