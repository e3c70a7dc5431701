"""ResourceSlices of GPUs that are cut when they are asked for, as NVIDIA's DRA driver has them; DeviceClasses."""

from __future__ import annotations

from typing import Any

from fleet.mig import part_of

DRIVER = "gpu.nvidia.com"
MEMORY_GIB = {"1g": 10, "1g-double": 20, "2g": 20, "3g": 40, "4g": 40, "7g": 80}


def slices_of(node: str, gpus: int, model: str = "NVIDIA H100 80GB HBM3", generation: int = 1) -> list[dict[str, Any]]:
    """One slice of counters, then one slice of devices per GPU, as from Kubernetes 1.35 on; devices by name."""
    pool = {"name": node, "generation": generation, "resourceSliceCount": gpus + 1}
    spec = {"driver": DRIVER, "nodeName": node, "pool": pool}
    sets = [{"name": f"gpu-{gpu}-counter-set", "counters": _whole()} for gpu in range(gpus)]
    found = [_document(f"{node}-counters", {**spec, "sharedCounters": sets})]
    for gpu in range(gpus):
        devices = sorted(_devices(gpu, node, model), key=lambda device: device["name"])
        found.append(_document(f"{node}-gpu-{gpu}", {**spec, "devices": devices}))
    return found


def device_class(name: str, expression: str, resource: str | None = None) -> dict[str, Any]:
    selector = {"cel": {"expression": f'device.driver == "{DRIVER}" && {expression}'}}
    spec: dict[str, Any] = {"selectors": [selector]} | ({"extendedResourceName": resource} if resource else {})
    return {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name}, "spec": spec}


def profile_class(profile: str) -> dict[str, Any]:
    """Slices of one profile by the device plugin's name; to ask a whole GPU for its profile would be an error."""
    expression = f'device.attributes["{DRIVER}"].type == "mig" && device.attributes["{DRIVER}"].profile == "{profile}"'
    return device_class(f"mig-{profile}", expression, f"nvidia.com/mig-{profile}")


def whole_class() -> dict[str, Any]:
    return device_class("gpu.nvidia.com", f'device.attributes["{DRIVER}"].type == "gpu"', "nvidia.com/gpu")


def memory_class(least_gib: int, resource: str) -> dict[str, Any]:
    """Any slice, and no whole GPU, with so much memory."""
    memory = f'device.capacity["{DRIVER}"].memory.compareTo(quantity("{least_gib}Gi")) >= 0'
    expression = f'device.attributes["{DRIVER}"].type == "mig" && {memory}'
    return device_class(f"slice-{least_gib}", expression, resource)


def _document(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec}


def _whole() -> dict[str, Any]:
    counters = {"memory": {"value": "80Gi"}, "multiprocessors": {"value": "132"}}
    return counters | {f"memory-slice-{number}": {"value": "1"} for number in range(8)}


def _devices(gpu: int, node: str, model: str) -> list[dict[str, Any]]:
    part = part_of(model)
    uuid, counter_set = f"GPU-{node}-{gpu}", f"gpu-{gpu}-counter-set"
    found = [_device(f"gpu-{gpu}", {"type": "gpu", "uuid": uuid, "productName": model}, 80, counter_set, _whole())]
    for role in part.layout.roles:
        profile = part.profile_of(role)
        if profile is None or role.name not in MEMORY_GIB:
            continue
        for start in role.starts:
            name = f"gpu-{gpu}-mig-{str(profile).replace('.', '')}-{role.profile_id}-{start}"
            texts = {"type": "mig", "profile": str(profile), "parentUUID": uuid, "productName": model}
            taken = {f"memory-slice-{start + number}": {"value": "1"} for number in range(role.memory_slices)}
            gib = MEMORY_GIB[role.name]
            taken |= {"memory": {"value": f"{gib}Gi"}, "multiprocessors": {"value": str(16 * role.compute_slices)}}
            found.append(_device(name, texts, gib, counter_set, taken))
    return found


def _device(name: str, texts: dict[str, str], gib: int, counter_set: str, taken: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "attributes": {key: {"string": text} for key, text in texts.items()},
        "capacity": {"memory": {"value": f"{gib}Gi"}},
        "consumesCounters": [{"counterSet": counter_set, "counters": taken}],
    }
