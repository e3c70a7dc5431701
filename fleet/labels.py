"""Every label, annotation, environment variable, resource name and default port, spelled once."""

from __future__ import annotations

DOMAIN = "splatfleet.io"

POOL_LABEL = f"{DOMAIN}/pool"
POOL_PATTERN = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"  # a pool's name is its value: what a label may hold
SCENES_ANNOTATION = f"{DOMAIN}/scenes"  # comma-separated scene ids
SCENE_BYTES_ANNOTATION = f"{DOMAIN}/scene-bytes"  # `id=bytes,...` where no node knows a size yet
SCENES_GATE = f"{DOMAIN}/scenes"  # scheduling gate: the autoscaler opens it when it has said which scenes a pod loads
ANY_SLICE_ANNOTATION = f"{DOMAIN}/any-slice-gb"  # `20`: one MIG slice of 20 GB or more, whatever its profile
PACKING_ANNOTATION = f"{DOMAIN}/packing"  # `pack` or `spread`: how a workload lies on the nodes; absent: as prices say
DRAINING_ANNOTATION = f"{DOMAIN}/draining"  # the autoscaler sets it, the gateway obeys it
DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"  # Kubernetes' own: the lowest goes first
PAUSED_ANNOTATION = f"{DOMAIN}/paused"  # on a PredictiveAutoscaler: `true`, or the time until which its count is held
PAUSED_SCALE_DOWN_ANNOTATION = f"{DOMAIN}/paused-scale-down"  # `true`: no pod is taken away

# Pods of the DaemonSet that serves a node, found by this label; its exporter and its scene agent by their ports' names.
COMPONENT_LABEL = "app.kubernetes.io/component"
NODE_COMPONENT = "node"
# On renderer pods that hold an exporter themselves, where nodes have no DaemonSet: each then speaks for its node.
EXPORTER_BESIDE_LABEL = f"{DOMAIN}/exporter-beside"
EXPORTER_PORT_NAME = "exporter"
SCENE_AGENT_PORT_NAME = "scene-agent"
# Ports of a renderer pod.
HTTP_PORT_NAME = "http"
GRPC_PORT_NAME = "grpc"
METRICS_PORT_NAME = "metrics"

# On pods that hold a place on a node for a renderer pod that is still to come: its pool, and the time of their end.
PLACEHOLDER_LABEL = f"{DOMAIN}/placeholder-of"
UNTIL_ANNOTATION = f"{DOMAIN}/until"

SCENE_LABEL_PREFIX = f"scene.{DOMAIN}/"  # of nodes, then the scene's id; opt-in, written by the autoscaler
SCENE_ON_DISK = "disk"  # its value
FREED_ANNOTATION = f"{DOMAIN}/freed"  # on a node: the extender wakes pods that kube-scheduler has given up on

SCENES_ENV = "SPLATFLEET_SCENES"  # carries SCENES_ANNOTATION into the pod
CATALOGUE_ENV = "SPLATFLEET_CATALOGUE"
SCENE_CACHE_ENV = "SPLATFLEET_SCENE_CACHE"  # the node's scene store as the pod sees it
POD_BUDGET_ENV = "SPLATFLEET_POD_BUDGET_BYTES"  # scenes that the pod may keep in memory
STORE_CAPACITY_ENV = "SPLATFLEET_STORE_CAPACITY_BYTES"  # scenes that the node's store may keep on disk
FETCH_LIMIT_ENV = "SPLATFLEET_FETCH_BYTES_PER_S"  # bandwidth that the node's downloads share; unset is no cap
SCENE_AGENT_TOKEN_ENV = "SPLATFLEET_SCENE_AGENT_TOKEN"  # bearer tokens of scene agents, one a line
SCENE_AGENT_TOKEN_FILE_ENV = "SPLATFLEET_SCENE_AGENT_TOKEN_FILE"  # a file of them, for pods that ask peers
SCENE_PEERS_ENV = "SPLATFLEET_SCENE_PEERS"  # URLs of other nodes' scene agents, comma-separated, nearest first
SCENE_PEER_CA_ENV = "SPLATFLEET_SCENE_PEER_CA"  # PEM CA of their certificates; unset is the system's
SCENE_ROOTS_ENV = "SPLATFLEET_SCENE_ROOTS"  # comma-separated addresses under which scenes may lie; unset is anywhere
RASTERIZER_ENV = "SPLATFLEET_RASTERIZER"  # auto, cpu, oracle or gpu
DEFAULT_SCENE_ENV = "SPLATFLEET_DEFAULT_SCENE"  # answers a request that names no scene
DEFAULT_SIZE_ENV = "SPLATFLEET_DEFAULT_SIZE"  # `512x512`, for a request that names no size
FRAME_FLOOR_ENV = "SPLATFLEET_FRAME_FLOOR_S"  # a frame occupies the pod at least that long; 0 is off
GATEWAY_TOKENS_ENV = "SPLATFLEET_GATEWAY_TOKENS"  # the token document itself; no flag, as a process list shows flags
DATA_ENV = "SPLATFLEET_DATA"  # real scenes and traces for tests and benchmarks

MIG_RESOURCE_PREFIX = "nvidia.com/mig-"  # `nvidia.com/mig-1g.10gb`
GPU_RESOURCE = "nvidia.com/gpu"
GPU_SHARED_RESOURCE = "nvidia.com/gpu.shared"  # a share, where the device plugin is set to rename them
# Of nodes, by GPU Feature Discovery.
GPU_COUNT_LABEL = "nvidia.com/gpu.count"
GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"  # MiB of one GPU
GPU_REPLICAS_LABEL = "nvidia.com/gpu.replicas"
GPU_SHARING_LABEL = "nvidia.com/gpu.sharing-strategy"  # none, time-slicing, mps
# A DeviceClass without a resource name of its own is asked for by this and its name (KEP-5004).
DEVICE_CLASS_RESOURCE_PREFIX = "deviceclass.resource.kubernetes.io/"

# Values reserved, on-demand and spot; the first that a node carries counts.
CAPACITY_TYPE_LABELS = (f"{DOMAIN}/capacity-type", "karpenter.sh/capacity-type")

MODEL_NAME = "gaussian_renderer"

GATEWAY_PORT = 8080
EXPORTER_PORT = 9465
EXTENDER_PORT = 9466
AUTOSCALER_PORT = 9467
SCENE_AGENT_PORT = 9468
TRITON_HTTP_PORT = 8000
TRITON_GRPC_PORT = 8001
TRITON_METRICS_PORT = 8002
