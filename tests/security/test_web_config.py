"""The web configuration file: what is taken, and one clear error for what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from security_world import TOKEN, USER, Keys, hashed, serving

from training_exporter import Monitor, WebConfigError
from training_exporter.web.config import load
from training_exporter.web.options import WEB_CONFIG_VARIABLE


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("keys"))
    Keys(keys.folder / "other")
    (keys.folder / "token").write_text(TOKEN + "\n")
    (keys.folder / "short").write_text("secret")
    (keys.folder / "two").write_text("a token with spaces in it")
    (keys.folder / "binary").write_bytes(b"\xff\xfe" * 20)
    return keys


def test_everything_at_once(keys: Keys) -> None:
    config = load(
        keys.config(
            {
                "tls_server_config": keys.mutual(min_version="TLS13", client_allowed_sans=["prometheus.example.org"]),
                "basic_auth_users": {USER: hashed("x")},
                "bearer_token_file": "token",
            }
        )
    )
    assert config.asks_who
    assert config.bearer_token == TOKEN.encode()
    assert {path.name for path in config.files} == {"web.yml", "server.pem", "server.key", "ca.pem", "token"}
    assert load(keys.config("tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n")).asks_who is False
    assert load(keys.config("{}")).asks_who is False


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("- a", "found list, allowed: keys basic_auth_users, bearer_token_file, tls_server_config"),
        ("a: [", "line 1: not YAML"),
        ("!!python/object/apply:os.system [id]", "not YAML: could not determine a constructor"),
        ("tls_config: {}", "tls_config: not a key of this server, allowed: basic_auth_users"),
        ("http_server_config: {http2: true}", "http_server_config: not a key of this server"),
        ("tls_server_config: on", "tls_server_config: found True, allowed: keys cert_file, client_allowed_sans"),
        ("tls_server_config: {cert_file: server.pem}", "tls_server_config.key_file: missing"),
        ("tls_server_config: {cert_file: nowhere.pem, key_file: server.key}", "nowhere.pem: No such file or directory"),
        ("tls_server_config: {cert_file: server.pem, key_file: client.key}", "KEY_VALUES_MISMATCH"),
        ("tls_server_config: {cert_file: token, key_file: token}", "no PEM certificate and its key without a password"),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, cipher_suites: [x]}",
            "tls_server_config.cipher_suites: not a key of this server",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, min_version: TLS10}",
            "tls_server_config.min_version: found 'TLS10', allowed: TLS12, TLS13",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, min_version: TLS13, max_version: TLS12}",
            "min_version: above max_version",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, client_auth_type: RequireAnyClientCert}",
            "client_auth_type: found 'RequireAnyClientCert', allowed: NoClientCert, VerifyClientCertIfGiven, Require",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem}",
            "client_auth_type: missing, though there is a client_ca_file",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, "
            "client_auth_type: RequireAndVerifyClientCert}",
            "client_ca_file: missing",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: token, "
            "client_auth_type: RequireAndVerifyClientCert}",
            "token has no PEM certificate",
        ),
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, client_allowed_sans: [a]}",
            "client_allowed_sans: needs client_auth_type: RequireAndVerifyClientCert",
        ),
        ("basic_auth_users: [a]", "basic_auth_users: allowed: a mapping"),
        ("basic_auth_users: {'a:b': x}", "found the user 'a:b', allowed: a text without a colon"),
        (
            "basic_auth_users: {alice: hunter2}",
            "basic_auth_users.alice: no bcrypt hash of a cost from 4 to 14",
        ),
        (f"basic_auth_users: {{alice: $2b$31${'a' * 53}}}", "basic_auth_users.alice: no bcrypt hash of a cost"),
        ("bearer_token_file: short", "short holds 6 characters, allowed: one line of at least 16 without spaces"),
        ("bearer_token_file: two", "two holds 25 characters"),
        ("bearer_token_file: binary", "binary: not plain text"),
        ("bearer_token_file: nowhere", "nowhere: No such file or directory"),
        ("bearer_token_file: [a]", "bearer_token_file: found ['a'], allowed: a path"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_repeated(keys: Keys, content: str, named: str) -> None:
    path = keys.config(content)
    with pytest.raises(WebConfigError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert named in message
    assert "\n" not in message
    assert "hunter2" not in message
    assert "a token with" not in message


@pytest.mark.parametrize("command", ["gpu --replay healthy", "run --no-gpu -- true"])
def test_commands_end_with_2_and_one_line(command: str, keys: Keys) -> None:
    path = keys.config({"bearer_token_file": "short"})
    name, *more = command.split()
    # A process of its own: `run` takes the signals of the one that it is in, for good.
    done = subprocess.run(
        [sys.executable, "-m", "training_exporter.cli", name, "--port", "0", "--web.config.file", str(path), *more],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"training-exporter {name}: {path}: bearer_token_file: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_training_ends_with_2_before_it_begins(keys: Keys, capfd: pytest.CaptureFixture[str]) -> None:
    from trading_llm import cli as trading_llm
    from trading_llm.dataset import simulated_dataset, write_dataset

    path = keys.config({"bearer_token_file": "short"})
    data = write_dataset(keys.folder / "data", *simulated_dataset(24, 8))[0]
    arguments = [
        "train", "--train-data", str(data), "--output-dir", str(keys.folder / "run"), "--threads", "1",
        "--metrics-port", "0", "--metrics-web-config", str(path),
    ]  # fmt: skip
    assert trading_llm.main(arguments) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"trading-llm: --metrics-web-config: {path}: bearer_token_file: ")
    assert said.count("\n") == 1
    assert not list((keys.folder / "run").glob("*"))


def test_the_environment_names_it_too(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEB_CONFIG_VARIABLE, str(keys.config({"tls_server_config": keys.tls()})))
    monitor = Monitor("r", port=0, gpu=False)
    assert monitor.url is not None
    assert monitor.url.startswith("https://127.0.0.1:")
    monitor.close()
    with pytest.raises(WebConfigError, match=r"nowhere\.yml: cannot be read: No such file"):
        Monitor("r", port=0, gpu=False, web_config=keys.folder / "nowhere.yml")


@pytest.mark.parametrize(
    ("host", "web", "warned"),
    [
        ("127.0.0.1", {}, False),
        ("localhost", {}, False),
        ("0.0.0.0", {}, True),
        ("0.0.0.0", {"tls_server_config": {"cert_file": "server.pem", "key_file": "server.key"}}, True),
        ("0.0.0.0", {"bearer_token_file": "token"}, False),
    ],
)
def test_a_page_for_everybody_on_the_network_is_warned_of(
    keys: Keys, host: str, web: dict[str, object], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(keys.config(web), host=host):
        said = [record.getMessage() for record in caplog.records]
    assert len([message for message in said if "to everybody who reaches it" in message]) == warned


def test_a_file_of_the_format_is_read_as_prometheus_reads_it(keys: Keys) -> None:
    """`promtool check web-config` takes what we take (but for our own key)."""
    path = keys.config({"tls_server_config": keys.mutual(), "basic_auth_users": {USER: hashed("x")}})
    load(path)
    checked = subprocess.run(["promtool", "check", "web-config", Path(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
