"""Which keys of a new configuration an agent applies on SIGHUP, and which at its next start."""

from collections.abc import Collection
from typing import Final

from trioserf.agent.config import AgentConfig
from trioserf.settings import build, setting_of, settings_of, values_of
from trioserf.swim.config import PROFILES

TLS_KEYS: Final = ("rpc_tls_cert", "rpc_tls_key", "rpc_tls_client_ca")


def reloaded_keys() -> list[str]:
    """Return the keys whose changed values a reload applies."""
    return [
        key
        for key, field in settings_of(AgentConfig).items()
        if (declared := setting_of(field)) is not None and declared.reloads
    ]


def merge_reloaded(
    running: AgentConfig,
    new: AgentConfig,
    *,
    applied: Collection[str] = (),
    skipped: Collection[str] = (),
) -> tuple[AgentConfig, list[str]]:
    """Return the configuration after a reload, and the changed keys that it could not apply.

    Args:
        running: the configuration of the agent.
        new: the one that was read.
        applied: keys that were applied beside those of `reloaded_keys`.
        skipped: keys of `reloaded_keys` that were not applied.
    """
    before, after = values_of(running), values_of(new)
    reloads = (set(reloaded_keys()) | set(applied)) - set(skipped)
    later = [key for key in after if after[key] != before[key] and key not in reloads]
    merged = build(AgentConfig, after | {key: before[key] for key in later})
    if "profile" in later:  # which changes its timings
        timing = PROFILES[new.profile]
        later = [key for key in later if getattr(timing, key, None) != after[key]]
    return merged, later
