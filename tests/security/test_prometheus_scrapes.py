"""A real Prometheus, configured by `training-exporter config`, scrapes a real exporter over mutual TLS with a password
or a token, and gets nothing without."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest
import yaml
from security_world import PASSWORD, TOKEN, USER, Keys, hashed

from training_exporter import Monitor, cli
from training_exporter.stack import binaries, files, launch
from training_exporter.stack.servers import Stack, free_port
from waiting import wait_until

PROMETHEUS_3 = Path(__file__).resolve().parents[2] / ".venv" / "prometheus-3"


def program(version: str) -> Path:
    if version == "2.42":
        return binaries.require([binaries.PROMETHEUS])["prometheus"]
    if not (PROMETHEUS_3 / "prometheus").exists():
        pytest.skip("no Prometheus 3: .ci/install-test-tools could not fetch it")
    return PROMETHEUS_3 / "prometheus"


def configured(tmp_path: Path, targets: Path, *options: str) -> tuple[int, Path]:
    (tmp_path / "webhook").write_text("http://127.0.0.1:1/slack\n")
    config = tmp_path / "config"
    code = cli.main(
        [
            "config", "--out", str(config), "--targets-dir", str(targets),
            "--slack-webhook-url-file", str(tmp_path / "webhook"), *options,
        ]
    )  # fmt: skip
    return code, config


@pytest.mark.parametrize(("version", "way"), [("2.42", "password"), ("3", "token")])
def test_scraped_with_everything_and_refused_without(version: str, way: str, tmp_path: Path) -> None:
    found = program(version)
    keys, targets = Keys(tmp_path / "keys"), tmp_path / "targets"
    (keys.folder / "token").write_text(TOKEN + "\n")
    (keys.folder / "password").write_text(PASSWORD + "\n")
    auth = {"basic_auth_users": {USER: hashed(PASSWORD)}} if way == "password" else {"bearer_token_file": "token"}
    web = keys.config({"tls_server_config": keys.mutual(client_allowed_sans=["prometheus.example.org"]), **auth})
    folder = str(keys.folder)
    authority = ["--scrape-ca-file", f"{folder}/ca.pem"]
    certificate = ["--scrape-cert-file", f"{folder}/client.pem", "--scrape-key-file", f"{folder}/client.key"]
    proof = (
        ["--scrape-username", USER, "--scrape-password-file", f"{folder}/password"]
        if way == "password"
        else ["--scrape-bearer-token-file", f"{folder}/token"]
    )
    monitor = Monitor("watched", port=0, gpu=False, web_config=web, targets_dir=targets, linger_seconds=0)
    try:
        (announced,) = [json.loads(file.read_text()) for file in targets.glob("*.json")]
        assert announced[0]["labels"] == {"__scheme__": "https"}
        for name, options, why in (
            ("all", [*authority, *certificate, *proof], ""),
            # Python's asyncio closes without the alert that says what is missing.
            ("no-certificate", [*authority, *proof], "EOF|connection reset by peer|server closed idle connection"),
            ("no-authority", [*certificate, *proof], "certificate signed by unknown authority"),
            ("no-proof", [*authority, *certificate], "401 Unauthorized"),
            ("nothing", [], "unknown authority"),
        ):
            here = tmp_path / name
            here.mkdir()
            code, config = configured(here, targets, *options)
            assert code == 0
            rendered = (config / "prometheus.yml").read_text()
            assert PASSWORD not in rendered
            assert TOKEN not in rendered
            with Stack(here / "log", grace_seconds=2) as stack:
                server = launch.start_prometheus(stack, found, config, here, free_port(0))
                server.wait_ready("/-/ready")

                def target(url: str = server.url) -> dict[str, str] | None:
                    with urllib.request.urlopen(f"{url}/api/v1/targets?state=active", timeout=10) as answer:
                        active = json.load(answer)["data"]["activeTargets"]
                    mine = [each for each in active if each["labels"]["job"] == "training"]
                    return mine[0] if mine and mine[0]["health"] != "unknown" else None

                seen = wait_until(target, 40)
                assert isinstance(seen, dict)
                assert seen["scrapeUrl"].startswith("https://")
                assert (seen["health"] == "up") is (name == "all"), seen["lastError"]
                assert re.search(why, seen["lastError"]), seen["lastError"]
    finally:
        monitor.close()


def test_rendered_job(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    ca, cert, key = (str(keys.folder / name) for name in ("ca.pem", "client.pem", "client.key"))
    options = ["--scrape-ca-file", ca, "--scrape-cert-file", cert, "--scrape-key-file", key]
    code, config = configured(tmp_path, tmp_path, *options, "--scrape-server-name", "exporters.example.org")
    assert code == 0
    jobs = {job["job_name"]: job for job in yaml.safe_load((config / "prometheus.yml").read_text())["scrape_configs"]}
    assert jobs["training"]["scheme"] == "https"
    assert jobs["training"]["tls_config"] == {
        "ca_file": ca, "cert_file": cert, "key_file": key, "server_name": "exporters.example.org",
    }  # fmt: skip
    assert "scheme" not in jobs["prometheus"]
    assert "scheme" not in yaml.safe_load((files.folder("prometheus") / "prometheus.yml").read_text())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--scrape-cert-file", "FILE"], "--scrape-cert-file and --scrape-key-file belong together"),
        (["--scrape-username", "a"], "--scrape-password-file and --scrape-username belong together"),
        (
            ["--scrape-username", "a", "--scrape-password-file", "FILE", "--scrape-bearer-token-file", "FILE"],
            "--scrape-username and --scrape-bearer-token-file: one of them",
        ),
        (["--scrape-ca-file", "/nowhere"], "--scrape-ca-file: /nowhere: No such file"),
        (["--scrape-bearer-token-file", "EMPTY"], "--scrape-bearer-token-file: "),
    ],
)
def test_wrong_settings_are_one_line_and_2(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("found-in-the-file")
    (tmp_path / "empty").write_text("\n")
    places = {"FILE": str(tmp_path / "file"), "EMPTY": str(tmp_path / "empty")}
    code, config = configured(tmp_path, tmp_path, *(places.get(option, option) for option in options))
    said = capsys.readouterr().err
    assert code == 2
    assert named in said
    assert said.count("\n") == 1
    assert "found-in-the-file" not in said
    assert not (config / "prometheus.yml").exists()
