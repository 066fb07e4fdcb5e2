"""Starts Prometheus, Alertmanager, Grafana and the inbox on this machine with the checkout's own files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training_exporter import ports
from training_exporter.stack import binaries, files
from training_exporter.stack.errors import StackError
from training_exporter.stack.inbox_server import Inbox
from training_exporter.stack.messages import Message
from training_exporter.stack.render import (
    AlertmanagerSettings,
    MailSettings,
    PrometheusSettings,
    render_alertmanager,
    render_prometheus,
)
from training_exporter.stack.servers import Child, Stack, free_port

# As in docker-compose.yml (a test compares them): everybody on this machine may look, nobody may log in, and Grafana
# asks no server outside for anything.
GRAFANA_SETTINGS = {
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
    "GF_AUTH_BASIC_ENABLED": "false",
    "GF_AUTH_DISABLE_LOGIN_FORM": "true",
    "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
    "GF_USERS_DEFAULT_THEME": "system",
    "GF_DASHBOARDS_MIN_REFRESH_INTERVAL": "5s",
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
}


@dataclass(frozen=True)
class Servers:
    """The running servers; `targets` is the folder in which exporters announce themselves. URLs end without a slash."""

    prometheus: Child
    alertmanager: Child
    inbox: Inbox
    targets: Path
    grafana_port: int

    @property
    def grafana_url(self) -> str:
        """Where Grafana is, or would be."""
        return f"http://127.0.0.1:{self.grafana_port}"


def start_servers(
    stack: Stack,
    work: Path,
    on_message: Callable[[Message], None] | None = None,
    install: Callable[[str], None] | None = None,
) -> Servers:
    """Start all but Grafana with data and configuration below `work`, and wait until they are ready.

    The default ports are taken where they are free, others where not. `install`: as `log` of `binaries.require`.
    The inbox runs in this process: close it, then leave `stack`. Raises StackError.
    """
    programs = binaries.require((binaries.PROMETHEUS, binaries.ALERTMANAGER), install)
    work = work.resolve()
    root = files.root()
    targets, config = work / "targets", work / "config"
    for folder in (targets, config):
        folder.mkdir(parents=True, exist_ok=True)
    taken: list[int] = []

    def port(preferred: int) -> int:
        taken.append(free_port(preferred, taken=taken))
        return taken[-1]

    grafana_port, prometheus_port, alertmanager_port = (
        port(number) for number in (ports.GRAFANA, ports.PROMETHEUS, ports.ALERTMANAGER)
    )
    inbox = Inbox(
        port=port(ports.INBOX_HTTP),
        smtp_port=port(ports.INBOX_SMTP),
        runbooks=root / "alerts" / "runbooks",
        data=work / "messages.jsonl",
        on_message=on_message,
    ).start()
    try:
        webhook = config / "slack_webhook_url"
        webhook.write_text(f"{inbox.url}/slack\n")
        (config / "alertmanager.yml").write_text(
            render_alertmanager(
                root / "alerts" / "alertmanager.yml",
                AlertmanagerSettings(
                    root=root,
                    slack_url_file=webhook,
                    mail=MailSettings(
                        smarthost=f"{inbox.host}:{inbox.smtp_port}",
                        sender="alerts@training-exporter.local",
                        to="on-call@training-exporter.local",
                        require_tls=False,
                    ),
                ),
            )
        )
        (config / "prometheus.yml").write_text(
            render_prometheus(
                root / "prometheus" / "prometheus.yml",
                PrometheusSettings(
                    root=root,
                    targets_dir=targets,
                    address=f"127.0.0.1:{prometheus_port}",
                    alertmanager=f"127.0.0.1:{alertmanager_port}",
                    grafana_url=f"http://127.0.0.1:{grafana_port}",
                    runbooks_url=f"{inbox.url}/runbooks",
                ),
            )
        )
        alertmanager = start_alertmanager(stack, programs["alertmanager"], config, work, alertmanager_port)
        prometheus = start_prometheus(stack, programs["prometheus"], config, work, prometheus_port)
        alertmanager.wait_ready("/-/ready")
        prometheus.wait_ready("/-/ready")
    except BaseException:
        inbox.close()
        raise
    return Servers(prometheus, alertmanager, inbox, targets, grafana_port)


def start_prometheus(stack: Stack, program: Path, config: Path, work: Path, port: int) -> Child:
    """Prometheus on 127.0.0.1 with `config`/prometheus.yml, and its data in `work`/prometheus."""
    command: list[str | Path] = [
        program,
        f"--config.file={config / 'prometheus.yml'}",
        f"--storage.tsdb.path={work / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--web.external-url=http://127.0.0.1:{port}",
    ]
    return stack.start("prometheus", command, url=f"http://127.0.0.1:{port}")


def start_alertmanager(stack: Stack, program: Path, config: Path, work: Path, port: int) -> Child:
    """Alertmanager on 127.0.0.1 with `config`/alertmanager.yml, and its data in `work`/alertmanager."""
    command: list[str | Path] = [
        program,
        f"--config.file={config / 'alertmanager.yml'}",
        f"--storage.path={work / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--web.external-url=http://127.0.0.1:{port}",
        # One instance: no cluster, so no port for it.
        "--cluster.listen-address=",
    ]
    return stack.start("alertmanager", command, url=f"http://127.0.0.1:{port}")


def start_grafana(stack: Stack, servers: Servers, work: Path) -> Child | None:
    """Grafana with the checkout's dashboards; None: no Grafana is on PATH. Raises StackError."""
    program = binaries.GRAFANA.find()
    if program is None:
        return None
    grafana = files.folder("grafana")
    data = work.resolve() / "grafana"
    data.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        **GRAFANA_SETTINGS,
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(servers.grafana_port),
        "GF_PATHS_DATA": str(data),
        "GF_PATHS_LOGS": str(data / "log"),
        "GF_PATHS_PLUGINS": str(data / "plugins"),
        "GF_PATHS_PROVISIONING": str(grafana / "provisioning"),
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(grafana / "dashboards" / "wall.json"),
        "PROMETHEUS_URL": servers.prometheus.url,
        "DASHBOARDS_DIR": str(grafana / "dashboards"),
    }
    # Grafana 13 has only `grafana server`; before 10 there was only `grafana-server`.
    subcommand = ["server"] if program.name == "grafana" else []
    command: list[str | Path] = [program, *subcommand, f"--homepath={_grafana_home(program)}"]
    child = stack.start("grafana", command, url=servers.grafana_url, environment=environment)
    child.wait_ready("/api/health")
    return child


def _grafana_home(program: Path) -> Path:
    """Grafana's own files: a package puts them to /usr/share, a release keeps them beside `bin/`."""
    given = os.environ.get("GF_PATHS_HOME")
    candidates = [Path(given)] if given else [program.resolve().parent.parent, Path("/usr/share/grafana")]
    for candidate in candidates:
        if (candidate / "conf" / "defaults.ini").is_file():
            return candidate
    raise StackError(
        f"Grafana ({program}): no conf/defaults.ini in {' or '.join(map(str, candidates))}; set GF_PATHS_HOME"
    )
