"""What turns bytes and slices into seconds: the settings of the cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prices:
    """What turns bytes and slices into seconds."""

    # Found together on a simulated fleet (docs/benchmarks/placement.md): above half a second a slice, packing drowns
    # locality.
    fragmentation_s_per_slice: float = 0.35
    eviction_weight: float = 8.0
    crowding_weight: float = 0.04
    page_cache_bytes_per_s: float = 6e9
    # Where no node of the fleet has measured its own yet.
    fetch_bytes_per_s: float = 250e6
    read_bytes_per_s: float = 1.5e9
    scene_bytes: float = 1e9
    # Reserved capacity is paid for anyway, and an empty node may be given back: enough to decide between equals.
    unreserved_s: float = 0.25
    empty_node_s: float = 0.02
    # A workload that is packed leaves wide slices to others, whatever its scenes cost; one that is spread pays for each
    # pod of its pool that it would share a node with.
    packed_fragmentation_s_per_slice: float = 2.0
    spread_s: float = 2.0
    # No node should carry more of a scene's pods than this share, once there are more than so many on it.
    hot_spot_s: float = 60.0
    hot_spot_pods: float = 16.0
    hot_spot_share: float = 0.5
    # Trust in a digest: whole for three polls, then halved each half-life, none once it counts as lost.
    fresh_s: float = 15.0
    half_life_s: float = 30.0
    lost_s: float = 180.0
