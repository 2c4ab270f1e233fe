"""Settings are documented, read from the environment or from files, and refused with readable errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import PREFIX, InvalidSettings, Settings, expanded, http_url, is_loopback, read_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{field.upper()}", raising=False)
        monkeypatch.delenv(f"{PREFIX}{field.upper()}_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_every_setting_says_what_it_is_and_has_a_default() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


def test_the_defaults_serve_one_machine(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.home == tmp_path / ".local/share/normlab"
    assert settings.database == tmp_path / ".local/share/normlab/normlab.db"
    assert settings.artifacts == f"{tmp_path}/.local/share/normlab/artifacts"
    assert settings.tokens == {}


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMLAB_PORT", "9")
    monkeypatch.setenv("NORMLAB_HOME", "~/there")
    assert Settings().port == 9
    assert Settings().home == Path("~/there").expanduser()
    assert Settings(port=10).port == 10, "what is given goes before the environment"


def test_a_file_may_hold_the_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("ann:12345678\n")
    monkeypatch.setenv("NORMLAB_API_TOKENS_FILE", str(tmp_path / "secret"))
    assert Settings().tokens == {"12345678": ("ann", True)}
    monkeypatch.setenv("NORMLAB_API_TOKENS", "bob:87654321")
    assert Settings().tokens == {"87654321": ("bob", True)}, "the variable itself goes before the file"


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    defaults = Settings()
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", "")
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", "")
    assert Settings() == defaults


def test_a_file_counts_beside_an_empty_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "port").write_text("9")
    monkeypatch.setenv("NORMLAB_PORT", "")
    monkeypatch.setenv("NORMLAB_PORT_FILE", str(tmp_path / "port"))
    assert Settings().port == 9


class TestWithoutAHomeDirectory:
    """As for the user ids that container platforms and batch systems choose."""

    @pytest.fixture(autouse=True, params=[None, ""], ids=["HOME unset", "HOME empty"])
    def _unknown_user(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        monkeypatch.delenv("HOME") if request.param is None else monkeypatch.setenv("HOME", request.param)
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)

    def test_the_error_names_what_to_set(self) -> None:
        with pytest.raises(ValidationError, match=r"home\s+.*this user has no home directory: name a directory"):
            Settings()

    def test_the_images_are_kept_in_the_home_of_the_service(self, tmp_path: Path) -> None:
        assert Settings(home=tmp_path).data_dir == tmp_path / "data"
        assert Settings(home=tmp_path, data_dir=Path("/images")).data_dir == Path("/images")


def test_the_images_are_kept_in_the_home_of_the_service_if_that_of_the_user_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert Settings(home=tmp_path / "service").data_dir == tmp_path / "service/data"
    (tmp_path / ".cache/normlab/data").mkdir(parents=True)
    assert Settings().data_dir == tmp_path / ".cache/normlab/data", "it may hold the images already"


def test_an_empty_home_is_that_of_the_user_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    known = Path("~").expanduser()
    monkeypatch.setenv("HOME", "")
    assert expanded(Path("~/there")) == known / "there"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("normlab.example", "http://normlab.example:80"),
        ("::1", "http://[::1]:80"),
    ],
)
def test_the_url_of_a_server_has_brackets_for_ipv6(host: str, url: str) -> None:
    assert http_url(host, 80) == url


def test_a_host_may_be_given_in_the_brackets_of_a_url() -> None:
    assert Settings(host="[::1]").host == "::1"


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NORMLAB_DATABASE_URL_FILE", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"NORMLAB_DATABASE_URL_FILE names .*none, which cannot be read"):
        Settings()


@pytest.mark.parametrize("gpus", [0, 0.25, 0.5, 1])
def test_a_worker_has_a_gpu_a_part_of_one_or_none(gpus: float) -> None:
    assert Settings(gpus_per_worker=gpus).gpus_per_worker == gpus


@pytest.mark.parametrize(
    ("gpus", "accepted"),
    [
        (
            "2",
            "NORMLAB_GPUS_PER_WORKER is 2, and a worker uses one GPU: give 1 or a fraction such as 0.5; a job trains",
        ),
        ("1.5", "NORMLAB_GPUS_PER_WORKER is 1.5, and a worker uses one GPU"),
        ("-1", "greater than or equal to 0"),
        ("nan", "NORMLAB_GPUS_PER_WORKER"),
    ],
)
def test_a_worker_that_would_have_several_gpus_is_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: str, accepted: str
) -> None:
    monkeypatch.setenv("NORMLAB_GPUS_PER_WORKER", gpus)
    with pytest.raises(InvalidSettings, match=re.escape(accepted)):
        read_settings()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "normlab.example", ""])
def test_the_server_refuses_to_start_open(host: str) -> None:
    with pytest.raises(ValidationError, match="NORMLAB_API_TOKENS is not set: set it to name:token, or listen on 127"):
        Settings(host=host)
    assert Settings(host=host, api_tokens=SecretStr("ann:12345678")).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_loopback_it_may_be_open(host: str) -> None:
    assert is_loopback(host)
    assert Settings(host=host).tokens == {}


def test_quotas_are_those_of_a_name_or_of_all_others() -> None:
    settings = Settings(quotas="ada:4:100, bob::7,*:2:,")
    assert settings.quota("ada") == (4, 100)
    assert settings.quota("bob") == (None, 7)
    assert settings.quota("anybody") == (2, None)
    assert Settings(quotas="ada:1:1").quota("anybody") == (None, None)


@pytest.mark.parametrize(
    ("quotas", "complaint"),
    [
        ("ada", "entry 1 is 'ada': give name:running:queued"),
        ("ada:4:100,bob:4", "entry 2"),
        ("ada:0:1", "numbers from 1"),
        ("ada:-1:1", "numbers from 1"),
        (":1:1", "entry 1"),
        ("ada:1:1,ada:2:2", "the name ada has two entries"),
    ],
)
def test_a_malformed_quota_is_refused_with_an_example(quotas: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Settings(quotas=quotas)


def test_a_quota_of_a_name_without_a_token_is_refused() -> None:
    tokens = SecretStr("ann:12345678,bob:abcdefgh:read")
    assert Settings(api_tokens=tokens, quotas="ann:1:1,*::9").quota("bob") == (None, 9)
    with pytest.raises(ValidationError, match="has the name 'eve', and NORMLAB_API_TOKENS has the names ann, bob"):
        Settings(api_tokens=tokens, quotas="eve:1:1")


@pytest.mark.parametrize(
    ("url", "secret", "complaint"),
    [
        ("ftp://example.org", "whsec_" + 32 * "A", "NORMLAB_WEBHOOK_URL is not an http or https URL"),
        ("https://example.org/x", None, "NORMLAB_WEBHOOK_SECRET is not whsec_"),
        ("https://example.org/x", "sesame-sesame-sesame-sesame-sesame", "NORMLAB_WEBHOOK_SECRET is not whsec_"),
        ("https://example.org/x", "whsec_QUJD", "24 to 64 bytes"),
    ],
)
def test_a_webhook_needs_a_url_and_a_secret(url: str, secret: str | None, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint) as refused:
        Settings(webhook_url=SecretStr(url), webhook_secret=None if secret is None else SecretStr(secret))
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    ("command", "url", "complaint"),
    [
        ("true", "https://example.org/x", "NORMLAB_END_COMMAND and NORMLAB_WEBHOOK_URL are both set"),
        ("mail 'ada", None, 'NORMLAB_END_COMMAND is "mail \'ada": No closing quotation'),
        ("  ", None, "NORMLAB_END_COMMAND is blank"),
    ],
)
def test_a_command_is_one_and_replaces_the_webhook(command: str, url: str | None, complaint: str) -> None:
    secret = SecretStr("whsec_" + 32 * "A")
    with pytest.raises(ValidationError, match=complaint):
        Settings(end_command=command, webhook_url=SecretStr(url) if url else None, webhook_secret=secret)


def test_tokens_read_and_write_or_only_read() -> None:
    settings = Settings(api_tokens=SecretStr("ann:12345678, bob:abcdefgh:read,eve:ABCDEFGH:write,"))
    assert settings.tokens == {
        "12345678": ("ann", True),
        "abcdefgh": ("bob", False),
        "ABCDEFGH": ("eve", True),
    }


@pytest.mark.parametrize(
    ("tokens", "entry"),
    [
        ("sesame-open", 1),
        ("ann:12345678,sesame-open", 2),
        (":sesame-open", 1),
        ("ann:short", 1),
        ("ann:sesame-open:admin", 1),
        ("ann:sesame-open:read:write", 1),
    ],
)
def test_a_malformed_token_is_refused_at_once_and_not_repeated(tokens: str, entry: int) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(host="127.0.0.1", api_tokens=SecretStr(tokens))
    assert f"entry {entry} is not name:token or name:token:read with a token of at least 8" in str(refusal.value)
    assert "sesame-open" not in str(refusal.value)
    assert "short" not in str(refusal.value)


def test_two_people_cannot_have_one_token() -> None:
    with pytest.raises(ValidationError, match="entries of ann and bob have the same token"):
        Settings(api_tokens=SecretStr("ann:12345678,bob:12345678:read"))


def test_an_error_does_not_show_the_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMLAB_API_TOKENS", "ann:open-sesame")
    monkeypatch.setenv("NORMLAB_DATABASE_URL", "oracle://me:sesame@host/name")
    monkeypatch.setenv("NORMLAB_PORT", "many")
    with pytest.raises(ValidationError) as refusal:
        Settings()
    assert "port" in str(refusal.value)
    assert "begins neither with postgresql:// nor with sqlite:///" in str(refusal.value)
    assert "sesame" not in str(refusal.value)
    assert "sesame" not in repr(Settings(database_url=SecretStr("postgresql://me:sesame@host/name"), port=1))


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("postgresql://u:p%40@h:5432/n?sslmode=require", "postgresql+psycopg://u:p%40@h:5432/n?sslmode=require"),
        ("postgres://h/n", "postgresql+psycopg://h/n"),
        ("postgresql+psycopg://h/n", "postgresql+psycopg://h/n"),
        ("sqlite:////data/normlab.db", "sqlite+aiosqlite:////data/normlab.db"),
    ],
)
def test_the_url_of_the_database_names_the_driver(url: str, database: str) -> None:
    assert Settings(database_url=SecretStr(url)).database == database


@pytest.mark.parametrize("url", ["sqlite:////srv/what?/normlab.db", "sqlite:////srv/normlab.db?timeout=5"])
def test_a_question_mark_in_the_url_of_a_file_cuts_off_no_path(url: str) -> None:
    with pytest.raises(ValidationError, match=r"has a query, which begins with .: .* as %3F"):
        Settings(database_url=SecretStr(url))


@pytest.mark.parametrize(
    ("given", "root_path"), [("", ""), ("/", ""), ("/normlab", "/normlab"), ("/lab/norm.lab-1/", "/lab/norm.lab-1")]
)
def test_a_prefix_has_no_slash_at_its_end(given: str, root_path: str) -> None:
    assert Settings(root_path=given).root_path == root_path


@pytest.mark.parametrize(
    "given", ["normlab", "//evil.example", "/a//b", "/a/../b", "/a?b", "/a b", '/"><script>', "/ü"]
)
def test_a_prefix_that_is_no_plain_path_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match=r"NORMLAB_ROOT_PATH is .*: give a path like /normlab"):
        Settings(root_path=given)


@pytest.mark.parametrize(
    "given", [{"port": -1}, {"port": 65536}, {"cpus_per_worker": 0}, {"worker_lease_s": 0}, {"log_level": "LOUD"}]
)
def test_what_makes_no_sense_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        Settings.model_validate(given)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


PROCESSES = ("app", "dispatcher", "dispatcher.heartbeat", "store.migrate", "cli doctor")
ARTIFACTS = {"NORMLAB_ARTIFACTS_URL": "ftp://host/x", "NORMLAB_RAY_ADDRESS": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("process", "variables", "reason"),
    [
        *((name, {"NORMLAB_PORT": "many"}, "NORMLAB_PORT: Input should be a valid integer") for name in PROCESSES),
        *((name, {"NORMLAB_PORT_FILE": "/nowhere"}, "NORMLAB_PORT_FILE names /nowhere, which") for name in PROCESSES),
        *((name, ARTIFACTS, "NORMLAB_ARTIFACTS_URL is ftp://host/x, and") for name in ("app", "dispatcher")),
        ("app", {"NORMLAB_ROOT_PATH": "/v1"}, "NORMLAB_ROOT_PATH is /v1, and /v1 is a path of the service"),
    ],
)
def test_every_process_refuses_what_is_not_valid_with_a_sentence(
    tmp_path: Path, process: str, variables: dict[str, str], reason: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *f"service.{process}".split()],
        cwd=Path(__file__).parents[3],
        env={"NORMLAB_HOME": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.removeprefix("normlab: ").startswith(reason)
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("given", ["http://lab.example", "lab.example:80", "a lab", "lab..example", "*.example"])
def test_allowed_hosts_are_names(given: str) -> None:
    with pytest.raises(ValidationError, match="NORMLAB_ALLOWED_HOSTS has the entry"):
        Settings(allowed_hosts=f"localhost,{given}")


@pytest.mark.parametrize("url", ["postgresql://me:ses@me@host/name", "postgres://a@b:sesame@host"])
def test_an_unquoted_password_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"more than one @ before the host: .* an @ as %40") as refusal:
        read_settings(database_url=url)
    assert not re.search("ses@|sesame", str(refusal.value))
    assert read_settings(database_url="postgresql://me:ses%40me@host/name?application_name=a@b").database_url


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RETENTION", "last", "NORMLAB_RETENTION: Input should be 'all', 'best-and-last' or 'none'"),
        ("RETENTION_DAYS", "-1", "NORMLAB_RETENTION_DAYS: Input should be greater than or equal to 0"),
        ("RETENTION_DAYS", "inf", "NORMLAB_RETENTION_DAYS: Input should be less than or equal to 36500"),
        ("RETENTION_DAYS", "nan", "NORMLAB_RETENTION_DAYS: Input should be"),
        ("RETENTION_DAYS", "a week", "NORMLAB_RETENTION_DAYS: Input should be a valid number"),
    ],
)
def test_a_rule_of_retention_that_is_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"NORMLAB_{name}", value)
    with pytest.raises(InvalidSettings, match=re.escape(says)):
        read_settings()
