# `make demo` and `make test` are all a visitor needs; both install what they need first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHON VENV
# Some images forbid it, and then every process of every test compiles all that it imports again.
export PYTHONDONTWRITEBYTECODE :=

# deploy is a folder, too
.PHONY: deploy help install demo demo-kubernetes test check lint type imports unit control-plane test-keda test-hpa test-kubernetes-long bench bench-renderer bench-kubernetes bench-scaling clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: ## .venv with the command splatfleet, Triton in place, kernels compiled
	@scripts/install.sh

demo: install ## a fleet of real Triton pods on this machine, to its scorecard
	@$(BIN)/splatfleet demo --report out/demo --json out/demo/out.json $(DEMO)

demo-kubernetes: control-plane ## the same under a real kube-apiserver, scheduler and controller-manager
	@scripts/install-prometheus.sh .tools/prometheus
	@$(BIN)/splatfleet demo --kubernetes --report out/demo-kubernetes --json out/demo-kubernetes/out.json $(DEMO)

test: check unit ## every check and every test

check: lint type imports ## ruff, mypy --strict, import-linter

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: install
	@$(BIN)/mypy

imports: install
	@$(BIN)/lint-imports --no-cache

unit: install
	@scripts/install-prometheus.sh .tools/prometheus || echo "make test: tests that need Prometheus will skip"
	@scripts/run-tests.sh $(BIN)/python $(TESTS)

control-plane: install ## a real Kubernetes control plane for the tests and the demo, built once (6 minutes on two cores)
	@$(BIN)/python -m local_fleet.control_plane.build

test-keda: control-plane ## our external scaler under the real KEDA, in a network namespace of its own (built once: 10 minutes)
	@$(BIN)/python -m local_fleet.control_plane.keda
	@unshare --net --map-root-user sh -c 'ip link set lo up && exec $(BIN)/python -m pytest -s tests/keda'

test-kubernetes-long: control-plane ## the whole loop with its parts killed, the API server away for 30 s
	@scripts/install-prometheus.sh .tools/prometheus
	@SPLATFLEET_OUTAGE_S=30 $(BIN)/python -m pytest -s tests/kubernetes

test-hpa: control-plane ## our simulated HPA beside the real controller, tick by tick; needs a quiet machine
	@SPLATFLEET_QUIET_MACHINE=1 $(BIN)/python -m pytest -s tests/simulator/test_hpa_live.py

bench: install ## every benchmark, one table each
	@$(BIN)/splatfleet bench all

bench-renderer: install ## frames, loads and server overhead of the renderer, to out/bench-renderer.json
	@$(BIN)/splatfleet bench renderer --json out/bench-renderer.json

bench-kubernetes: install ## pods a second of the real kube-scheduler with our extender, to out/bench-kubernetes.json
	@$(BIN)/splatfleet bench kubernetes --nodes 1000 --pods 2000 --json out/bench-kubernetes.json

bench-scaling: install ## every autoscaling policy over the recorded traces, to docs/benchmarks/scaling.md
	@$(BIN)/python -m benchmarks.scaling

deploy: install ## renew what is made from code: rules, dashboards, kustomize, references
	@$(BIN)/splatfleet monitoring rules --out deploy/rules
	@$(BIN)/splatfleet monitoring dashboards --out deploy/dashboards
	@$(BIN)/python scripts/kustomize-from-chart.py
	@$(BIN)/python scripts/chart-values.py
	@$(BIN)/python scripts/crd-reference.py > docs/predictiveautoscaler.md
	@PYTHONPATH=. $(BIN)/python scripts/references.py
	@$(BIN)/splatfleet metrics > docs/metrics.md

clean: ## what the build and the demo left
	rm -rf out .demo build dist
