"""Secrets stay in their files: marked ones are put everywhere, and looked for in everything that is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from security_world import Keys, get, hashed, serving

from training_exporter import Monitor, events
from training_exporter.redaction import HIDDEN, hide, hide_settings, is_secret
from training_exporter.stack import binaries, launch
from training_exporter.stack.inbox_server import Inbox
from training_exporter.stack.servers import Stack, free_port

ROOT = Path(__file__).resolve().parents[2]
MARK = "MARKED5ecret"


@pytest.mark.parametrize(
    "name",
    [
        "token", "hub_token", "hf-token", "HF_TOKEN", "apiToken", "wandb_api_key", "apiKey", "AWS_SECRET_ACCESS_KEY",
        "password", "db.password", "PASSWORD", "smtpPassword", "client_secret", "credentials", "ssh_key", "passphrase",
        "Authorization", "slack_webhook", "session_cookie", "SENTRY_DSN",
    ],
)  # fmt: skip
def test_secret_by_name(name: str) -> None:
    assert is_secret(name)
    assert hide_settings({name: "anything"}) == {name: HIDDEN}
    assert hide_settings({name: ""}) == {name: ""}


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens", "num_tokens", "tokenizer", "eos_token", "pad_token", "pad_token_id", "tokens_per_second", "key",
        "num_key_value_heads", "monkey", "secretary", "author", "label_key", "base_model", "keyboard", "batch_size", "",
        "smtp_password_file", "authority",
    ],
)  # fmt: skip
def test_no_secret_by_name(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://user:{MARK}@example.org/data", f"https://{HIDDEN}@example.org/data"),
        (f"postgresql://u:{MARK}@h:5432/d and s3://k:{MARK}@b", f"postgresql://{HIDDEN}@h:5432/d and s3://{HIDDEN}@b"),
        (f"https://x.org/a?token={MARK}&b=1", f"https://x.org/a?token={HIDDEN}&b=1"),
        (
            f"https://b.s3.amazonaws.com/k?X-Amz-Signature={MARK}",
            f"https://b.s3.amazonaws.com/k?X-Amz-Signature={HIDDEN}",
        ),
        (f"401: {{'Authorization': 'Bearer {MARK}'}}", f"401: {{'Authorization': '{HIDDEN}'}}"),
        (f"header Bearer {MARK}{MARK}", f"header Bearer {HIDDEN}"),
        (f"login(password='{MARK}', user='a')", f"login(password='{HIDDEN}', user='a')"),
        (f"https://hooks.slack.com/services/T0/B0/{MARK}", f"https://hooks.slack.com/{HIDDEN}"),
        (f"hf_{MARK}abcdefgh", HIDDEN),
        (f"token ghp_{MARK}abcdefgh is wrong", f"token {HIDDEN} is wrong"),
        ("AKIAIOSFODNN7EXAMPLE", HIDDEN),
        (f"eyJhbGciOiJI.eyJzdWIi{MARK}.sig", HIDDEN),
        (f"-----BEGIN RSA PRIVATE KEY-----\n{MARK}\n-----END RSA PRIVATE KEY-----", HIDDEN),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("https://example.org:8080/data?page=2", "https://example.org:8080/data?page=2"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("basic training of 2026", "basic training of 2026"),
        ("the pad token is 0: see max_tokens=512", "the pad token is 0: see max_tokens=512"),
        ("git@github.com:me/data.git", "git@github.com:me/data.git"),
    ],
)
def test_secret_by_look(text: str, shown: str) -> None:
    assert hide(text) == shown
    assert MARK not in hide(text)


@pytest.mark.parametrize("piece", ["a.", "://", "?key=", "-----BEGIN ", "eyJa.", ":@", "bearer ", "x" * 50])
def test_hiding_takes_no_time_on_long_texts(piece: str) -> None:
    began = time.process_time()
    hide(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 5, "seconds of the training's interpreter"


def test_no_secret_in_page_journal_or_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys(tmp_path / "keys")
    (keys.folder / "token").write_text(MARK * 2)
    web = keys.config({"bearer_token_file": "token", "basic_auth_users": {"a": hashed(MARK)}})
    with caplog.at_level("DEBUG"):
        monitor = Monitor("r", output_dir=tmp_path, port=0, gpu=False, web_config=web, linger_seconds=0)
        seen: list[events.Event] = []
        monitor.add_sink(lambda event, _: seen.append(event))
        settings = {
            "hub_token": MARK, "dataset": f"https://u:{MARK}@example.org/d", "base_model": f"hf_{MARK}abcdefghijkl",
            "git_commit": f"https://x/?access_token={MARK}",
        }  # fmt: skip
        monitor.emit(events.RunStarted(time=1.0, run="r", max_steps=3, settings=settings))
        monitor.emit(events.OutOfMemory(time=2.0, step=1, message=f"password={MARK}"))
        monitor.end("failed", f"HTTPError: 401 for https://u:{MARK}@example.org/d?token={MARK}")
        assert monitor.url is not None
        page = get(monitor.url, Authorization=f"Bearer {MARK * 2}")[1]
        for wrong in (f"Bearer {MARK}", f"Basic {MARK}"):
            assert get(monitor.url + f"?token={MARK}", Authorization=wrong)[0] == 401
        monitor.close()
    assert "llm_training_run_info" in page
    assert HIDDEN in page
    for shown in (page, (tmp_path / "journal.jsonl").read_text(), caplog.text, repr(seen)):
        assert MARK not in shown
    assert "example.org/d" in page, "what is no secret stays"


def test_no_secret_in_configurations_logs_or_arguments(tmp_path: Path) -> None:
    """The real servers, with a webhook, a mail password, a scrape password and a token that can be told."""
    keys = Keys(tmp_path / "keys")
    ports: list[int] = []
    while len(ports) < 5:
        ports.append(free_port(0, taken=ports))
    inbox_port, smtp_port, prometheus_port, alertmanager_port, gpu_port = ports
    for name, content in {
        "webhook": f"http://127.0.0.1:{inbox_port}/slack?{MARK}",
        "mail": MARK,
        "password": MARK,
        "token": MARK * 2,
    }.items():
        (keys.folder / name).write_text(content)
    web = keys.config({"tls_server_config": keys.tls(), "basic_auth_users": {"prometheus": hashed(MARK)}})
    targets, config = tmp_path / "targets", tmp_path / "config"
    targets.mkdir()  # before Prometheus starts: it watches no folder that is not there
    folder = str(keys.folder)
    rendered = subprocess.run(
        [
            sys.executable, "-m", "training_exporter.cli", "config", "--out", str(config),
            "--targets-dir", str(targets),
            "--slack-webhook-url-file", f"{folder}/webhook", "--smtp-smarthost", f"127.0.0.1:{smtp_port}",
            "--smtp-username", "a", "--smtp-password-file", f"{folder}/mail", "--smtp-require-tls", "false",
            "--scrape-ca-file", f"{folder}/ca.pem", "--scrape-username", "prometheus",
            "--scrape-password-file", f"{folder}/password", "--alertmanager", f"127.0.0.1:{alertmanager_port}",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert rendered.returncode == 0, rendered.stderr
    programs = binaries.require([binaries.PROMETHEUS, binaries.ALERTMANAGER])
    shown = [rendered.stdout, rendered.stderr]
    with Stack(tmp_path / "log", grace_seconds=3) as stack, Inbox(port=inbox_port, smtp_port=smtp_port):
        alertmanager = launch.start_alertmanager(stack, programs["alertmanager"], config, tmp_path, alertmanager_port)
        prometheus = launch.start_prometheus(stack, programs["prometheus"], config, tmp_path, prometheus_port)
        stack.start(
            "gpu",
            [sys.executable, "-m", "training_exporter.cli", "gpu", "--replay", "healthy", "--port", str(gpu_port),
             "--web.config.file", web, "--targets-dir", targets],
        )  # fmt: skip
        for server in (alertmanager, prometheus):
            server.wait_ready("/-/ready")
        end = time.monotonic() + 60
        while time.monotonic() < end and not _scraped(prometheus.url):
            time.sleep(0.5)
        assert _scraped(prometheus.url), _targets(prometheus.url) + (tmp_path / "log" / "gpu.log").read_text()
        pages = ("api/v1/status/config", "metrics", "api/v1/status/flags")
        shown += [_text(f"{prometheus.url}/{page}") for page in pages]
        shown += [_text(f"{alertmanager.url}/{page}") for page in ("api/v2/status", "metrics")]
        shown.append(_targets(prometheus.url))
        children = psutil.Process().children(recursive=True)
        assert len(children) >= 6  # three guards and what they guard
        shown += [" ".join(child.cmdline()) for child in children]
        shown += ["\n".join(f"{key}={value}" for key, value in child.environ().items()) for child in children]
        shown.append(_text(f"http://127.0.0.1:{inbox_port}/"))
    shown += [path.read_text(errors="replace") for path in [*config.iterdir(), *(tmp_path / "log").iterdir()]]
    shown += [path.read_text() for path in targets.glob("*")]
    for text in shown:
        assert MARK not in text, text[:2000]


def _text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode(errors="replace")


def _scraped(url: str) -> bool:
    targets = json.loads(_targets(url))["data"]["activeTargets"]
    return [each["health"] for each in targets if each["labels"]["job"] == "training"] == ["up"]


def _targets(url: str) -> str:
    return _text(f"{url}/api/v1/targets?state=active")


def test_no_secret_in_what_compose_shows(tmp_path: Path) -> None:
    """`docker compose config` and `docker inspect` show environment, labels and arguments; secrets are in none."""
    sys.path.insert(0, str(ROOT / "tests" / "stack"))
    from test_compose import compose_command

    command = compose_command()
    if command is None:
        pytest.skip("no Docker Compose: neither `docker compose` nor `docker-compose`")
    for name in ("slack", "password"):
        (tmp_path / name).write_text(f"https://hooks.slack.com/{MARK}")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "SLACK_WEBHOOK_URL_FILE": str(tmp_path / "slack"),
        "SMTP_PASSWORD_FILE": str(tmp_path / "password"), "SMTP_USERNAME": "a",
    }  # fmt: skip
    for form in ("json", "yaml"):
        done = subprocess.run(
            [*command, "--env-file", "/dev/null", "--profile", "gpu", "config", "--format", form],
            cwd=ROOT, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert str(tmp_path / "slack") in done.stdout
        assert MARK not in done.stdout + done.stderr


def test_the_landing_page_escapes_its_title() -> None:
    with serving() as server:
        assert "&lt;title&gt; &amp; more" in get(server.url.removesuffix("metrics"))[1]
