"""The Dockerfile as far as it can be checked without an engine: its instructions, its paths, its extras, its users."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field

import pytest

from splatfleet.__main__ import VERBS
from tests.conftest import REPOSITORY
from tests.deploy.conftest import CHART, Helm, containers

FILE = REPOSITORY / "deploy" / "Dockerfile"
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
COMPONENTS = {"node", "extender", "autoscaler", "gateway", "tools", "renderer"}


@dataclass
class Stage:
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for name, rest in self.instructions if name == word]


def read() -> tuple[dict[str, str], dict[str, Stage]]:
    """Arguments before the first stage, and the stages by name."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in FILE.read_text().replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.strip().partition(" ")
        assert word in KNOWN, line
        if word == "FROM":
            found = re.fullmatch(r"(\S+) AS ([a-z-]+)", rest)
            assert found is not None, f"{line}: every stage has a name"
            stage = stages[found[2]] = Stage(found[1])
        elif stage is None:
            assert word == "ARG", line
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            stage.instructions.append((word, rest))
    return arguments, stages


ARGUMENTS, STAGES = read()


def lineage(name: str) -> list[Stage]:
    """A stage and those below it, the topmost first."""
    found = [STAGES[name]]
    while found[-1].base in STAGES:
        found.append(STAGES[found[-1].base])
    return found


def test_every_component_of_the_chart_has_its_target() -> None:
    assert set(STAGES) >= COMPONENTS
    digests = re.search(r"digests: \{(.*)\}", (CHART / "values.yaml").read_text())
    assert digests is not None
    assert {part.split(":")[0].strip() for part in digests[1].split(",")} == COMPONENTS


def test_bases_are_arguments_with_whole_versions() -> None:
    for stage in STAGES.values():
        assert stage.base in STAGES or stage.base.removeprefix("${").removesuffix("}") in ARGUMENTS
    for value in ARGUMENTS.values():
        registry, _, tag = value.partition(":")
        assert "." in registry.split("/")[0], f"{value}: says its registry, so that it can be replaced"
        assert re.match(r"\d+\.\d+", tag), f"{value}: a whole version"


@pytest.mark.parametrize("name", sorted(COMPONENTS))
def test_what_runs_is_nobody(name: str) -> None:
    users = [user for stage in reversed(lineage(name)) for user in stage.all("USER")]
    assert users[-1] == "65532:65532"


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = set(re.findall(r"^!(\S+)", (REPOSITORY / ".dockerignore").read_text(), flags=re.M))
    for name, stage in STAGES.items():
        for text in stage.all("COPY"):
            words = text.split()
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in STAGES, f"{name}: {text}"
                continue
            for path in words[:-1]:
                assert (REPOSITORY / path).exists(), f"{name}: {text}"
                assert path.split("/")[0] in kept, f"{name}: {path} is ignored by .dockerignore"


@pytest.mark.parametrize("name", ["build", "renderer"])
def test_the_whole_package_is_copied(name: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {word for text in STAGES[name].all("COPY") for word in text.split()[:-1]}
    assert packages <= copied
    assert {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"} <= copied


def test_the_extras_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {extra for stage in STAGES.values() for text in stage.all("RUN") for found in
             re.findall(r'"\.\[([a-z,]+)\]"', text) for extra in found.split(",")}  # fmt: skip
    assert asked >= {"exporter", "agent", "extender", "autoscaler", "gateway", "renderer", "gpu"}
    assert asked <= set(extras)


def test_the_images_run_what_the_chart_asks_of_them(helm: Helm) -> None:
    """Verbs come after an entrypoint that is splatfleet; the renderer has none, its arguments are a whole command."""
    seen = set()
    for example in ("", "keda-h200", "ephemeral-l40s"):
        for item in helm.render(example):
            for container in containers(item):
                image = container["image"].rsplit("/", 1)[-1].split(":")[0].split("@")[0]
                if image not in COMPONENTS:
                    continue
                seen.add(image)
                entry = next(text for stage in lineage(image) for text in stage.all("ENTRYPOINT"))
                if "command" not in container:
                    assert entry == '["splatfleet"]'
                    assert container["args"][0] in VERBS
    assert seen == COMPONENTS


def test_the_verbs_of_an_image_have_their_packages() -> None:
    """The extras of an image hold what its verb imports, by what pyproject says of each."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needs = {
        "node": ("kubernetes", "starlette", "splatfleet[renderer]"),
        "extender": ("kubernetes", "fastapi"),
        "autoscaler": ("kubernetes", "scikit-learn", "grpcio"),
        "gateway": ("kubernetes", "websockets"),
    }
    for name, packages in needs.items():
        text = " ".join(STAGES[f"build-{name}"].all("RUN"))
        asked = re.findall(r"\[([a-z,]+)\]", text)[0].split(",")
        held = " ".join(part for extra in asked for part in extras[extra])
        assert all(package in held for package in packages), f"{name}: {held}"
