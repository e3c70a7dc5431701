"""An exporter in each renderer pod: every one speaks for the node, and nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from exporter.collector import NodeCollector
from exporter.exposition import families
from exporter.reading import NodeReading
from exporter.sources import Sources
from tests.exporter.surroundings import MetricsServer, Store, write_json


async def reading_of(sources: Sources) -> NodeReading:
    collector = NodeCollector(sources, 0.0)
    try:
        return await collector.collect()
    finally:
        await collector.close()


async def test_the_digest_is_the_nodes_and_the_metrics_are_the_pods(
    tmp_path: Path, serve_metrics: Callable[[str], MetricsServer], triton_text: str
) -> None:
    pods = [
        {"uid": uid, "pool": "main", "node": "n", "grpc_address": "", "http_address": "",
         "metrics_address": serve_metrics(triton_text).address}
        for uid in ("one", "two")
    ]  # fmt: skip
    write_json(tmp_path / "renderers.json", {"version": 1, "renderers": pods})
    cut = {"uuid": "GPU-a", "model": "H100-80", "healthy": True,
           "slices": [{"profile": "1g.10gb", "start": 0, "healthy": True}]}  # fmt: skip
    write_json(tmp_path / "gpus.json", {"gpus": [cut]})
    store = Store(tmp_path / "store")
    store.put("garden", 100)
    whole = Sources("n", renderers_file=tmp_path / "renderers.json", scene_cache=tmp_path / "store",
                    gpus_file=tmp_path / "gpus.json")  # fmt: skip
    alone = await reading_of(Sources("n", renderers_file=whole.renderers_file, scene_cache=whole.scene_cache,
                                     gpus_file=whole.gpus_file, beside="two"))  # fmt: skip
    everything = await reading_of(whole)
    assert [pod.uid for pod in alone.digest.pods] == ["one", "two"]
    assert alone.digest.pods == everything.digest.pods
    assert alone.digest.gpus == everything.digest.gpus
    assert [scene.id for scene in everything.digest.scene_cache.scenes] == ["garden"]
    assert alone.digest.scene_cache.scenes == ()
    assert {model.pod for model in alone.models} == {"two"}
    assert alone.scene_cache is not None
    assert [scene.id for scene in alone.scene_cache.scenes] == ["garden"]
    names = {family.name for family in families(alone)}
    assert not any("mig" in name for name in names)
    assert any("mig" in family.name for family in families(everything))
