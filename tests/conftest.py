"""What all tests share: examples are judged by what they show, never by this machine's speed."""

from hypothesis import HealthCheck, settings

settings.register_profile("tenner", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tenner")
