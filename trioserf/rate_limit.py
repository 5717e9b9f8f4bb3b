"""Rates of work that other hosts can cause: a token bucket for each source, and one for all."""

from typing import Final

_MAX_SOURCES: Final = 1024
"""Sources with a bucket of their own; a sender can forge more, whom the common bucket limits."""


class TokenBucket:
    """Allows `rate` units a second, and up to `burst` units at once after a pause."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._updated = 0.0

    def has(self, amount: float, now: float) -> bool:
        """Return whether `take` would allow this amount."""
        elapsed = max(now - self._updated, 0.0)
        self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
        self._updated = now
        return self._tokens >= amount

    def take(self, amount: float, now: float) -> bool:
        """Return whether this amount is allowed now; if so, it is used up."""
        if not self.has(amount, now):
            return False
        self._tokens -= amount
        return True


class SourceLimits:
    """A token bucket for each source, and one for all sources together.

    Args:
        rate: units a second of one source.
        burst: units of one source at once.
        total: the bucket of all sources.
    """

    def __init__(self, rate: float, burst: float, total: TokenBucket) -> None:
        self._rate = rate
        self._burst = burst
        self._total = total
        self._sources: dict[str, TokenBucket] = {}

    def take(self, source: str, amount: float, now: float) -> bool:
        """Return whether a source may use this amount now; if so, it is used up."""
        bucket = self._sources.get(source)
        if bucket is None:
            if len(self._sources) >= _MAX_SOURCES:
                del self._sources[next(iter(self._sources))]
            bucket = self._sources[source] = TokenBucket(self._rate, self._burst)
        return (
            bucket.has(amount, now) and self._total.take(amount, now) and bucket.take(amount, now)
        )
