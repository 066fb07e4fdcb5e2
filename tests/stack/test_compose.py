"""docker-compose.yml as Docker's own plugin reads it: pinned, closed, unprivileged, and needing no file by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from training_exporter import ports
from training_exporter.stack.launch import GRAFANA_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = {"prom/prometheus", "prom/alertmanager", "grafana/grafana"}


def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


def compose_config(*options: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    command = compose_command()
    if command is None:
        pytest.skip("no Docker Compose: neither `docker compose` nor `docker-compose`")
    done = subprocess.run(
        [*command, "--env-file", "/dev/null", *options, "config", "--format", "json"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(environment or {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # A variable without a default is a warning there.
    assert not done.stderr.strip(), done.stderr
    config: dict[str, Any] = json.loads(done.stdout)
    return config


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose_config("--profile", "gpu")["services"]
    return found


def test_services(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"trainer", "gpu", "config", "prometheus", "alertmanager", "grafana", "inbox"}
    assert "gpu" not in compose_config()["services"]


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        repository, _, tag = service["image"].partition(":")
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), name
        assert repository in UPSTREAM or "build" in service, name
    for dockerfile in (ROOT / "exporter" / "Dockerfile", ROOT / "trainer" / "Dockerfile"):
        stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", dockerfile.read_text(), re.M)
        assert {base for base, _ in stages} - {name for _, name in stages} == {"python:3.11-slim-bookworm"}


def test_our_images_carry_the_distributions_version(services: dict[str, dict[str, Any]]) -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert {s["image"].partition(":")[2] for s in services.values() if "build" in s} == {version[1]}


def test_ports_are_on_this_machine_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert len({port["published"] for port in ports}) == len(ports)


def test_ports_are_those_of_the_table(services: dict[str, dict[str, Any]]) -> None:
    """YAML and Dockerfiles cannot import `ports`: they must say the same."""
    here = {name: {p["target"]: int(p["published"]) for p in s.get("ports", [])} for name, s in services.items()}
    table = {
        "trainer": ports.RUN_METRICS,
        "gpu": ports.GPU_METRICS,
        "config": None,
        "prometheus": ports.PROMETHEUS,
        "alertmanager": ports.ALERTMANAGER,
        "grafana": ports.GRAFANA,
        "inbox": ports.INBOX_HTTP,
    }
    assert here == {name: {port: port} if port else {} for name, port in table.items()}

    def exposed(image: str) -> set[int]:
        text = (ROOT / image / "Dockerfile").read_text()
        return {int(port) for line in re.findall(r"^EXPOSE (.+)$", text, re.M) for port in line.split()}

    assert exposed("trainer") == {ports.RUN_METRICS}
    assert exposed("exporter") == {ports.GPU_METRICS, ports.INBOX_HTTP, ports.INBOX_SMTP}

    prometheus = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    found = [
        prometheus["alerting"]["alertmanagers"],
        *(job.get("static_configs", []) for job in prometheus["scrape_configs"]),
    ]
    assert set(re.findall(r"([a-z]+):(\d+)", json.dumps(found))) == {
        ("alertmanager", str(ports.ALERTMANAGER)),
        ("localhost", str(ports.PROMETHEUS)),
    }
    assert prometheus["global"]["external_labels"] == {
        "grafana_url": f"http://localhost:{ports.GRAFANA}",
        "runbooks_url": f"http://localhost:{ports.INBOX_HTTP}/runbooks",
    }
    alertmanager = yaml.safe_load((ROOT / "alerts" / "alertmanager.yml").read_text())
    assert alertmanager["global"]["smtp_smarthost"] == f"inbox:{ports.INBOX_SMTP}"


def test_containers_are_unprivileged(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["tmpfs"] == ["/tmp"], name
        for key in ("privileged", "cap_add", "devices", "pid", "network_mode", "ipc", "group_add"):
            assert not service.get(key), (name, key)


def test_no_socket_and_no_writable_host_folder(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for mount in service.get("volumes", []):
            assert "docker.sock" not in mount.get("source", ""), name
            if mount["type"] == "bind":
                assert mount["read_only"] is True, (name, mount)
                assert Path(mount["source"]).is_relative_to(ROOT), (name, mount)


def test_no_password_anywhere(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            assert not re.search(r"password|secret|token|webhook", key, re.I) or value in {"true", "false"}, (name, key)
    grafana = services["grafana"]["environment"]
    assert GRAFANA_SETTINGS.items() <= grafana.items()
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_health_checks_and_ends(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        one_shot = name == "config"
        assert ("healthcheck" in service) is not one_shot, name
        assert service["restart"] == ("no" if name in {"config", "trainer"} else "unless-stopped"), name


def test_nothing_has_to_be_prepared() -> None:
    read = compose_config("--profile", "gpu")
    for secret in read["secrets"].values():
        path = Path(secret["file"])
        assert path.is_file()
        tracked = subprocess.run(["git", "ls-files", "--error-unmatch", path], cwd=ROOT, capture_output=True)
        assert tracked.returncode == 0, f"{path} is not in git"
    for service in read["services"].values():
        for mount in service.get("volumes", []):
            assert mount["type"] == "volume" or Path(mount["source"]).is_dir(), mount


def test_the_example_of_settings_has_all() -> None:
    example = (ROOT / ".env.example").read_text()
    used = dict(re.findall(r"\$\{(\w+)(?::-(.*?))?\}", (ROOT / "docker-compose.yml").read_text()))
    listed = dict(re.findall(r"^# (\w+)=(.*)$", example, re.M))
    assert set(listed) == set(used)
    shown = {name for name in used if name.startswith(("SLACK_", "SMTP_"))}
    assert {name: value for name, value in listed.items() if name not in shown} == {
        name: value for name, value in used.items() if name not in shown
    }
    assert not re.search(r"^[^#\n]", example, re.M), "copied as it is, it changes nothing"


def test_own_secrets_and_ports(tmp_path: Path) -> None:
    environment = {
        "SLACK_WEBHOOK_URL_FILE": str(tmp_path / "slack"),
        "SMTP_PASSWORD_FILE": str(tmp_path / "password"),
        "SMTP_SMARTHOST": "smtp.example.org:587",
        "GRAFANA_PORT": "13000",
        "TRAIN_ARGS": "--inject loss_rising",
    }
    read = compose_config(environment=environment)
    assert read["secrets"]["slack_webhook_url"]["file"] == str(tmp_path / "slack")
    assert read["secrets"]["smtp_password"]["file"] == str(tmp_path / "password")
    settings = read["services"]["config"]["environment"]
    assert settings["SMTP_SMARTHOST"] == "smtp.example.org:587"
    assert settings["GRAFANA_URL"] == "http://localhost:13000"
    assert read["services"]["trainer"]["command"][-2:] == ["--inject", "loss_rising"]


def test_changed_settings_make_new_containers(tmp_path: Path) -> None:
    """Compose itself does not notice another secret file, nor what `config` renders."""
    before = compose_config()["services"]
    secret = compose_config(environment={"SLACK_WEBHOOK_URL_FILE": str(tmp_path)})["services"]
    port = compose_config(environment={"GRAFANA_PORT": "13000"})["services"]
    assert {name for name in before if before[name] != secret[name]} == {"config", "alertmanager"}
    assert {name for name in before if before[name] != port[name]} == {"config", "prometheus", "grafana"}


def test_history_has_a_named_volume_where_the_server_writes(services: dict[str, dict[str, Any]]) -> None:
    for name, option in (("prometheus", "--storage.tsdb.path="), ("alertmanager", "--storage.path=")):
        (path,) = [part.removeprefix(option) for part in services[name]["command"] if part.startswith(option)]
        assert [m["source"] for m in services[name]["volumes"] if m["target"] == path] == [name]
