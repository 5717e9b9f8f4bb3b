"""Token buckets, and their limits for each source."""

from trioserf.rate_limit import SourceLimits, TokenBucket


def test_bucket_allows_burst_then_rate() -> None:
    bucket = TokenBucket(rate=2, burst=10)
    assert bucket.take(10, 0.0)
    assert not bucket.take(1, 0.0)
    assert not bucket.take(3, 1.0)
    assert bucket.take(2, 1.0)


def test_bucket_holds_at_most_its_burst() -> None:
    bucket = TokenBucket(rate=2, burst=10)
    assert not bucket.take(11, 1e6)
    assert bucket.take(10, 1e6)


def test_refused_amount_is_not_used_up() -> None:
    bucket = TokenBucket(rate=1, burst=10)
    assert not bucket.take(11, 0.0)
    assert bucket.take(10, 0.0)


def test_one_source_does_not_use_up_the_limit_of_another() -> None:
    limits = SourceLimits(1, 10, TokenBucket(1, 100))
    assert limits.take("a", 10, 0.0)
    assert not limits.take("a", 1, 0.0)
    assert limits.take("b", 10, 0.0)


def test_all_sources_together_are_limited() -> None:
    limits = SourceLimits(1, 10, TokenBucket(1, 100))
    assert [limits.take(str(number), 10, 0.0) for number in range(12)] == [True] * 10 + [False] * 2


def test_amount_refused_for_all_is_not_taken_from_source() -> None:
    limits = SourceLimits(0, 10, TokenBucket(10, 10))
    assert limits.take("a", 10, 0.0)
    assert not limits.take("b", 10, 0.0)
    assert limits.take("b", 10, 1.0)


def test_forged_sources_take_bounded_memory() -> None:
    limits = SourceLimits(1, 1, TokenBucket(1e9, 1e9))
    for number in range(5000):
        assert limits.take(str(number), 1, 0.0)
    assert len(limits._sources) == 1024
