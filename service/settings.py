"""The settings of an installation: environment variables with the prefix NORMLAB_."""

import base64
import ipaddress
import os
import re
import shlex
import sys
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from service.quotas import OTHERS, Quota, read_quotas
from service.secret_files import SecretFiles

PREFIX = "NORMLAB_"
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
"""The SQLAlchemy driver for each scheme of a database URL."""
DATA_DIR = Path("~/.cache/normlab/data")


class Settings(BaseSettings):
    """All settings with their defaults. NORMLAB_X_FILE may name a file that contains the value of NORMLAB_X.

    A variable that is empty is not set.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    home: Path = Field(
        default=Path("~/.local/share/normlab"),
        description="directory of the database and the artifacts of a single-machine installation",
    )
    data_dir: Path = Field(
        default=DATA_DIR,
        description="directory of CIFAR-10, which is downloaded there if it is missing; "
        "without a home directory that can be written, data in HOME",
    )
    database_url: SecretStr | None = Field(
        default=None, description="postgresql://user:password@host/name or sqlite:///path; default: a file in HOME"
    )
    artifacts_url: str | None = Field(
        default=None,
        description="location of the checkpoints: a directory or s3://bucket/folder; default: a directory in HOME",
    )
    host: str = Field(default="127.0.0.1", description="address the API listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="port the API listens on; 0 selects a free port")
    root_path: str = Field(
        default="",
        description="prefix of all paths at the proxy in front of the API, such as /normlab; the proxy may remove it "
        "from requests or leave it",
    )
    max_streams: int | None = Field(
        default=None,
        ge=1,
        description="maximum number of open event streams of an API process; default and upper limit: the number of "
        "open files (ulimit -n) without a reserve for other requests",
    )
    api_tokens: SecretStr | None = Field(
        default=None,
        description="comma-separated tokens, each `name:token` (reads and writes) or `name:token:read`; required "
        "unless HOST is a loopback address",
    )
    quotas: str = Field(
        default="",
        description="comma-separated limits on the jobs of a name in API_TOKENS, each `name:running:queued`: how many "
        "may run, and how many may be queued or paused; an empty number is no limit, and the name * stands for every "
        "name that is not listed",
    )
    allowed_hosts: str = Field(
        default="",
        description="comma-separated host names of the API, without ports, that requests may name in their Host header "
        "besides localhost and IP addresses; * allows every name; not checked if API_TOKENS is set",
    )
    webhook_url: SecretStr | None = Field(
        default=None, description="http or https URL that is told when a job or an experiment has ended"
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="secret by which its requests are signed: whsec_ and 24 to 64 bytes in base64; required with "
        "WEBHOOK_URL",
    )
    end_command: str | None = Field(
        default=None,
        description="command run without a shell, with the JSON of the webhook as its input, instead of WEBHOOK_URL",
    )
    ray_address: str | None = Field(
        default=None, description="host:port of a Ray cluster; default: a private cluster on this machine"
    )
    ray_namespace: str = Field(default="normlab", description="namespace of the training workers in the Ray cluster")
    cpus_per_worker: int = Field(default=1, ge=1, description="CPUs per training worker, and its number of CPU threads")
    gpus_per_worker: float = Field(
        default=0,
        ge=0,
        description="GPUs per training worker: 1, or a fraction such as 0.5 for workers that share a GPU; 0 trains on "
        "the CPU",
    )
    warm_workers: int = Field(default=1, ge=0, description="training workers kept running while no job waits")
    max_workers: int | None = Field(
        default=None,
        ge=1,
        description="maximum number of training workers; a value above the number of slots lets Ray's autoscaler add "
        "nodes for queued jobs; default: the number of slots",
    )
    worker_idle_s: float = Field(
        default=600, gt=0, description="seconds without a job after which a training worker beyond WARM_WORKERS ends"
    )
    worker_lease_s: float = Field(
        default=30, gt=0, description="seconds without a poll after which a training worker pauses, with a checkpoint"
    )
    rendezvous_timeout_s: float = Field(
        default=60,
        gt=0,
        description="seconds that the workers of a job wait for each other when they connect and in each step",
    )
    worker_grace_s: float = Field(
        default=6, gt=0, description="seconds that a training worker has to stop on request before it is killed"
    )
    dispatcher_lease_s: float = Field(
        default=5, gt=0, description="seconds without a renewed lease after which another dispatcher takes over"
    )
    dispatch_interval_s: float = Field(
        default=4,
        gt=0,
        description="seconds between two polls of the database by the dispatcher; in between, notifications of the "
        "database wake it",
    )
    max_lost: int = Field(
        default=5, ge=1, description="losses of its workers without a new checkpoint after which a job fails"
    )
    retention: Literal["all", "best-and-last", "none"] = Field(
        default="all",
        description="checkpoints that a job keeps RETENTION_DAYS days after its end: all, best-and-last (its best and "
        "its last one) or none; one that an unfinished job or evaluation needs stays",
    )
    retention_days: float = Field(
        default=7, ge=0, le=36500, description="days after the end of a job from which RETENTION applies to it"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="lowest level of log records that the service writes"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of values by precedence: arguments, environment, files that the environment names."""
        return init_settings, env_settings, SecretFiles(settings_cls)

    @field_validator("home")
    @classmethod
    def _expand(cls, home: Path) -> Path:
        return expanded(home)

    @field_validator("data_dir")
    @classmethod
    def _expand_or_in_home(cls, data_dir: Path, info: ValidationInfo) -> Path:
        if data_dir != DATA_DIR or _can_exist(data_dir):
            return expanded(data_dir)
        return Path(info.data.get("home", data_dir), "data")

    @field_validator("host")
    @classmethod
    def _without_brackets(cls, host: str) -> str:
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @field_validator("root_path")
    @classmethod
    def _plain_path(cls, path: str) -> str:
        segments = path.rstrip("/").split("/")
        if segments[0] or not all(re.fullmatch(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*", segment) for segment in segments[1:]):
            raise ValueError(
                f"NORMLAB_ROOT_PATH is {path!r}: give a path like /normlab, of letters, digits and - . _ ~"
            )
        return "/".join(segments)

    @field_validator("allowed_hosts")
    @classmethod
    def _names_without_ports(cls, hosts: str) -> str:
        names = [name for host in hosts.split(",") if (name := host.strip().lower())]
        for name in names:
            if name != "*" and not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name):
                raise ValueError(
                    f"NORMLAB_ALLOWED_HOSTS has the entry {name!r}: give host names such as normlab.example.org, "
                    "without scheme and port"
                )
        return ",".join(names)

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: SecretStr | None) -> SecretStr | None:
        scheme = url.get_secret_value().partition("://")[0] if url else "sqlite"
        if scheme not in DRIVERS and scheme not in DRIVERS.values():
            raise ValueError("NORMLAB_DATABASE_URL begins neither with postgresql:// nor with sqlite:///")
        if url and not scheme.startswith("sqlite"):
            location = re.split(r"[/?]", url.get_secret_value().partition("://")[2], maxsplit=1)[0]
            if location.count("@") > 1:
                raise ValueError(
                    "NORMLAB_DATABASE_URL has more than one @ before the host: in the user and the password write an "
                    "@ as %40, a / as %2F and a ? as %3F"
                )
        if url and scheme.startswith("sqlite") and "?" in url.get_secret_value():
            raise ValueError(
                "NORMLAB_DATABASE_URL names a file of SQLite and has a query, which begins with ?: leave it out, "
                "and write a ? of the path as %3F"
            )
        return url

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_gpu_at_most(cls, gpus: float) -> float:
        if not (gpus <= 1):
            raise ValueError(
                f"NORMLAB_GPUS_PER_WORKER is {gpus:g}, and a worker uses one GPU: give 1 or a fraction such as 0.5; "
                "a job trains on several GPUs with num_workers"
            )
        return gpus

    @model_validator(mode="after")
    def _closed_unless_loopback(self) -> Self:
        if not self.tokens and not is_loopback(self.host):
            raise ValueError(
                f"NORMLAB_HOST is {self.host}, which others can reach, and NORMLAB_API_TOKENS is not set: "
                "set it to name:token, or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _quotas_of_known_names(self) -> Self:
        # A dispatcher may have no tokens.
        names = {name for name, _ in self.tokens.values()} or self.limits.keys()
        if unknown := sorted(self.limits.keys() - names - {OTHERS}):
            raise ValueError(
                f"NORMLAB_QUOTAS has the name {unknown[0]!r}, and NORMLAB_API_TOKENS has the names "
                f"{', '.join(sorted(names))}: give one of these, or *"
            )
        return self

    @model_validator(mode="after")
    def _ends_can_be_told(self) -> Self:
        if self.webhook_url and not re.fullmatch(r"https?://[^\s/]+.*", self.webhook_url.get_secret_value()):
            raise ValueError("NORMLAB_WEBHOOK_URL is not an http or https URL")
        if self.webhook_url and not 24 <= len(self.webhook_key) <= 64:
            raise ValueError(
                "NORMLAB_WEBHOOK_SECRET is not whsec_ and 24 to 64 bytes in base64, as WEBHOOK_URL needs it"
            )
        if self.webhook_url and self.end_command:
            raise ValueError("NORMLAB_END_COMMAND and NORMLAB_WEBHOOK_URL are both set: set one of them")
        try:
            is_blank = self.end_command is not None and not shlex.split(self.end_command)
        except ValueError as error:
            raise ValueError(f"NORMLAB_END_COMMAND is {self.end_command!r}: {error}; quote as in a shell") from error
        if is_blank:
            raise ValueError("NORMLAB_END_COMMAND is blank: give a command, or do not set it")
        return self

    @property
    def webhook_key(self) -> bytes:
        """The bytes of WEBHOOK_SECRET; none if it is not set or not valid."""
        _, _, text = (self.webhook_secret.get_secret_value() if self.webhook_secret else "").partition("whsec_")
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            return b""

    @cached_property
    def limits(self) -> dict[str, Quota]:
        """The entries of QUOTAS: name → limits."""
        return read_quotas(self.quotas)

    def quota(self, name: str) -> Quota:
        """Return the limits on the jobs of a name."""
        return self.limits.get(name, self.limits.get(OTHERS, Quota()))

    @cached_property
    def tokens(self) -> dict[str, tuple[str, bool]]:
        """The API tokens: token → (name, whether it may write)."""
        tokens: dict[str, tuple[str, bool]] = {}
        entries = (self.api_tokens.get_secret_value() if self.api_tokens else "").split(",")
        for position, entry in enumerate(map(str.strip, entries), start=1):
            if not entry:
                continue
            name, _, rest = entry.partition(":")
            token, _, access = rest.partition(":")
            if not name or len(token) < 8 or access not in ("", "read", "write"):
                raise ValueError(
                    f"NORMLAB_API_TOKENS: entry {position} is not name:token or name:token:read "
                    "with a token of at least 8 characters"
                )
            if token in tokens:
                raise ValueError(f"NORMLAB_API_TOKENS: entries of {tokens[token][0]} and {name} have the same token")
            tokens[token] = (name, access != "read")
        return tokens

    @property
    def host_names(self) -> tuple[str, ...]:
        """The entries of ALLOWED_HOSTS."""
        return tuple(filter(None, self.allowed_hosts.split(",")))

    @property
    def database(self) -> str | Path:
        """The URL of the database, in the form of SQLAlchemy, or the path of the file of SQLite in HOME."""
        if self.database_url is None:
            return self.home / "normlab.db"
        scheme, _, rest = self.database_url.get_secret_value().partition("://")
        return f"{DRIVERS.get(scheme, scheme)}://{rest}"

    @property
    def artifacts(self) -> str:
        """The URL or the folder of the artifact store."""
        return self.artifacts_url or str(self.home / "artifacts")


class InvalidSettings(Exception):
    """The settings are not valid; the message names each variable and what is wrong with it."""


def read_settings(**given: object) -> Settings:
    """Return the settings; `given` takes precedence over the environment. Raises `InvalidSettings`."""
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InvalidSettings(
            "; ".join(_sentence(problem["loc"], problem["msg"]) for problem in error.errors())
        ) from error
    except ValueError as error:
        raise InvalidSettings(str(error)) from error


def settings_or_exit() -> Settings:
    """Return the settings of this process; if they are not valid, print why and exit with 2."""
    try:
        return read_settings()
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _sentence(loc: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{PREFIX}{str(loc[0]).upper()}: {message}" if loc else message


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address, which no other machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def http_url(host: str, port: int) -> str:
    """Return the URL of an HTTP server: an IPv6 address is written in brackets (RFC 3986, section 3.2.2)."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def expanded(path: Path) -> Path:
    """Return `path` as an absolute path, with ~ replaced by the home directory.

    Raises:
        ValueError: There is no home directory: HOME is not set or empty, and the system does not know the user.
    """
    try:
        if path.parts[:1] == ("~",) and os.environ.get("HOME") == "":
            import pwd

            return Path(pwd.getpwuid(os.getuid()).pw_dir, *path.parts[1:])
        return path.expanduser().absolute()
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be found, because this user has no home directory: name a directory that can be written, "
            "or set HOME"
        ) from error


def existing_part(path: Path) -> Path:
    """Return `path` if it exists, else the nearest of its parents that does."""
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))


def _can_exist(path: Path) -> bool:
    """Return whether a directory exists or can be created."""
    try:
        path = expanded(path)
    except ValueError:
        return False
    existing = existing_part(path)
    return existing == path or os.access(existing, os.W_OK | os.X_OK)
