"""One declaration per setting: flag, environment variable and line of the config file come from the same field.

A verb declares a `VerbSettings` and a function; `verb` makes the command. Flags win over the environment,
the environment over the file given with `--config`, the file over the default.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import inspect
import json
import os
import re
import sys
import tomllib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, Union, get_args, get_origin

import click
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

Settings = TypeVar("Settings", bound="VerbSettings")
DESCRIPTORS = "/dev/fd"
DAY_S = 86_400.0  # the longest that a wait, an interval or a deadline may be
WRITES_FILE: dict[str, Any] = {"writes": "file"}  # of a field: checked before the work that makes what it holds
WRITES_FOLDER: dict[str, Any] = {"writes": "folder"}
WRITES_PLOT: dict[str, Any] = {"writes": "plot"}
_PLOTS = (".png", ".svg")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_JSON = re.compile(r"""\s*(\{|\[\s*(["{[\]]|[-\d.,\s]+\]\s*$))""")  # objects or a list; the address [::1]:80 is neither


class VerbSettings(BaseSettings):
    """Settings of one verb. A field's description is the help of its flag; a list field is a repeatable flag.

    A field whose name Python or pydantic keeps for itself carries the name of its flag as its alias (`--json`).
    """

    model_config = SettingsConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `resolve` merges the rest, so that a field named by both is no surprise


class UsageError(click.ClickException):
    """A wrong value; says the field, the value and the fix, and exits with 2."""

    exit_code = 2


def _names(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Settings by name, where `-` and `_` are alike; raises ValueError where one is there twice."""
    named: dict[str, Any] = {}
    for key, value in pairs:
        name = key.replace("-", "_")
        if name in named:
            raise ValueError(f"{name} is given twice")
        named[name] = value
    return named


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that names a setting twice, where YAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        _names((str(key.value), None) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        return node


def _named_once(value: Any) -> Any:
    """The same, where no mapping in it names a setting twice; raises ValueError."""
    if isinstance(value, Mapping):
        return _names((str(key), _named_once(below)) for key, below in value.items())
    return [_named_once(below) for below in value] if isinstance(value, list) else value


def read_config(path: Path) -> dict[str, Any]:
    """Read a config file (YAML, TOML or JSON by its suffix) into a mapping."""
    try:
        text = path.read_text()
        match path.suffix:
            case ".toml":
                loaded: Any = _named_once(tomllib.loads(text))
            case ".json":
                loaded = json.loads(text, object_pairs_hook=_names)
            case _:
                loaded = yaml.load(text, _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: {error}") from error
    except RecursionError as error:
        raise UsageError(f"--config {path}: is nested too deep, expected a mapping of settings") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {path}: holds {type(loaded).__name__}, expected a mapping of settings")
    return {str(key).replace("-", "_"): value for key, value in loaded.items()}


def resolve(settings: type[Settings], flags: dict[str, Any], environment: dict[str, str]) -> Settings:
    """Merge file, environment and flags (later wins) into checked settings; raises UsageError."""
    merged: dict[str, Any] = {}
    config = flags.pop("config_file", None)
    if config is not None:
        merged |= read_config(Path(config))
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        spelled = field.alias or name
        text = environment.get(f"{prefix}{spelled}".upper())
        if text:
            merged[spelled] = _parts(field, text)
        if flags.get(name) not in (None, ()):
            merged[spelled] = flags[name]
        if _is_list(field) and isinstance(merged.get(spelled), list | tuple):
            merged[spelled] = [item for text in merged[spelled] for item in _items(spelled, text)]
    try:
        return settings(**merged)
    except ValidationError as error:
        known = [field.alias or name for name, field in settings.model_fields.items()]
        raise UsageError("; ".join(_explain(item, prefix, known) for item in error.errors())) from error


def _parts(field: FieldInfo, text: str) -> str | list[str]:
    """An environment variable holds the values of a list between commas, or as JSON, which has commas of its own."""
    if not _is_list(field):
        return text
    return [text] if _JSON.match(text) else text.split(",")


def _items(name: str, value: Any) -> list[Any]:
    """The values that one stands for: those of its JSON, a list or one object after the other; else itself."""
    if not isinstance(value, str) or not _JSON.match(value):
        return [value]
    try:
        found: list[Any] = json.loads(value if value.lstrip().startswith("[") else f"[{value}]")
    except json.JSONDecodeError as error:
        flag = "--" + name.replace("_", "-")
        raise UsageError(
            f"{flag}: {value[:80]!r} is no JSON ({error.msg}); quote it whole, or write it into the file of --config"
        ) from error
    except RecursionError as error:
        raise UsageError(f"--{name.replace('_', '-')}: {value[:20]!r}… is nested too deep") from error
    return found


def _outputs(settings: VerbSettings) -> dict[str, tuple[Path, str]]:
    """What a run is to write: its path, and whether that is a file, a folder or a plot, by flag."""
    found: dict[str, tuple[Path, str]] = {}
    for name, field in type(settings).model_fields.items():
        spelled, path = field.alias or name, getattr(settings, name)
        kind = "file" if spelled == "json" else str(_extra(field).get("writes", ""))
        if kind and isinstance(path, Path) and not (spelled == "json" and path == Path("-")):
            found["--" + spelled.replace("_", "-")] = (path, kind)
    return found


def _check_outputs(outputs: Mapping[str, tuple[Path, str]]) -> None:
    """Refuse what could not be written, before the work that makes it."""
    for flag, (path, kind) in outputs.items():
        try:
            problem = _problem(path, kind)
        except FileExistsError as error:
            problem = f"{error.filename} is a file, expected a folder"
        except OSError as error:
            problem = f"{error.strerror}: {error.filename}"
        except ValueError as error:  # a NUL, which no path may hold
            problem = str(error)
        if problem:
            raise UsageError(f"{flag} {str(path)!r}: {problem}" if "\0" in str(path) else f"{flag} {path}: {problem}")


def _problem(path: Path, kind: str) -> str:
    """Why it could not be written, or nothing; makes the folders above it."""
    if kind == "folder":
        if path.exists() and not path.is_dir():
            return "is a file, expected a folder"
        path.mkdir(parents=True, exist_ok=True)
        return "" if os.access(path, os.W_OK | os.X_OK) else "may not be written"
    if path.is_dir():
        return "is a folder, expected a file"
    if kind == "plot" and path.suffix.lower() not in _PLOTS:
        return f"expected a name that ends in {' or '.join(_PLOTS)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return "" if os.access(path if path.exists() else path.parent, os.W_OK) else "may not be written"


def _belongs(at: Path, path: Path, kind: str) -> bool:
    """Whether a file is one of an output: in its folder, or what it is called until it is whole."""
    return at.is_relative_to(path) if kind == "folder" else at.parent == path.parent and path.name in at.name


@contextmanager
def _writing(outputs: Mapping[str, tuple[Path, str]]) -> Iterator[None]:
    """Say in a line, with exit code 1, what could not be written after all: a full disk, a folder that went."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        at = Path(error.filename) if isinstance(error.filename, str) else None
        if at is None and error.errno not in _FULL:
            raise
        lost = [
            f"{flag} {path}"
            for flag, (path, kind) in outputs.items()
            if at is None or at == path or _belongs(at, path, kind)
        ]
        if at is not None and not lost:
            raise
        raise click.ClickException(f"{', '.join(lost) or 'standard output'}: {error.strerror}") from error


class _Descriptor(type(Path())):  # type: ignore[misc]  # 3.11 makes no plain subclass of Path
    """A path below DESCRIPTORS that is written where its descriptor stands.

    Opened by its name, a file behind it would be emptied, with all that was written before.
    """

    def open(self, mode: str = "r", *args: Any, **named: Any) -> IO[Any]:
        return open(os.dup(int(self.name)), mode, *args, **named)


@contextmanager
def _standard_output(settings: VerbSettings) -> Iterator[None]:
    """`--json -`: the figures go to standard output, and what is meant for eyes to standard error."""
    field = next((name for name, info in type(settings).model_fields.items() if (info.alias or name) == "json"), None)
    if field is None or getattr(settings, field) != Path("-"):
        yield
        return
    sys.stdout.flush()
    figures = os.dup(1)
    try:
        setattr(settings, field, _Descriptor(f"{DESCRIPTORS}/{figures}"))
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.close(figures)


def _explain(item: Any, prefix: str, known: Sequence[str]) -> str:
    name = ".".join(part for part in item["loc"] if isinstance(part, str)) or "settings"
    flag = "--" + name.replace("_", "-")
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"{name}: no such setting{meant} (there are: {', '.join(known)})"
    if item["type"] == "missing":
        return f"{flag} is needed (or {prefix.upper()}{name.upper()} in the environment, or {name} in the config file)"
    return f"{flag}: {item['msg']} (got {str(item['input'])[:80]!r})"


def _is_list(field: FieldInfo) -> bool:
    return get_origin(_inner(field.annotation)) in (list, tuple)


def _inner(annotation: Any) -> Any:
    """`X` out of `X | None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        left = [part for part in get_args(annotation) if part is not type(None)]
        return left[0] if len(left) == 1 else str
    return annotation


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _option(name: str, field: FieldInfo, prefix: str) -> click.Option:
    annotation = _inner(field.annotation)
    spelled = field.alias or name
    flag = "--" + spelled.replace("_", "-")
    short = [str(letter) for key, letter in _extra(field).items() if key == "short"]  # `-n`
    shown = "" if field.default in (None, [], ()) or field.is_required() else f" [default: {field.default}]"
    stream = " `-` is standard output." if spelled == "json" else ""
    note = f"{field.description or ''}{stream}{shown} [env: {(prefix + spelled).upper()}]"
    if annotation is bool:
        return click.Option([*short, f"{flag}/--no-{flag[2:]}", name], default=None, help=note)
    kind: Any = click.STRING
    if get_origin(annotation) is Literal:
        kind = click.Choice([str(choice) for choice in get_args(annotation)])
    elif annotation in (int, float):
        kind = click.INT if annotation is int else click.FLOAT
    elif annotation is Path:
        kind = click.Path(path_type=Path)
    return click.Option([*short, flag, name], type=kind, multiple=_is_list(field), default=None, help=note)


def verb(
    name: str,
    settings: type[Settings],
    run: Callable[[Settings], int | None],
    example: str,
    arguments: Sequence[str] = (),
) -> click.Command:
    """Make the command `splatfleet <name>` out of its settings; `run`'s docstring is its help.

    Fields named in `arguments` are positional. `run` returns the exit code (None is 0).
    """
    prefix = settings.model_config.get("env_prefix", "")

    def callback(**flags: Any) -> None:
        resolved = resolve(settings, flags, dict(os.environ))
        outputs = _outputs(resolved)
        _check_outputs(outputs)
        with _writing(outputs), _standard_output(resolved):
            code = run(resolved)
        if code:
            raise SystemExit(code)

    params: list[click.Parameter] = [
        click.Argument([field], required=settings.model_fields[field].is_required()) for field in arguments
    ]
    params += [_option(field, info, prefix) for field, info in settings.model_fields.items() if field not in arguments]
    params.append(
        click.Option(
            ["--config" if "config" not in settings.model_fields else "--settings", "config_file"],
            type=click.Path(path_type=Path),
            help="File with the same settings (YAML, TOML or JSON); flags and environment win over it.",
        )
    )
    text = f"{inspect.cleandoc(run.__doc__ or '')}\n\n\b\nExample:\n" + "\n".join(
        f"  {line}" for line in example.strip().splitlines()
    )
    return click.Command(name, callback=callback, params=params, help=text, short_help=text.split("\n")[0])
