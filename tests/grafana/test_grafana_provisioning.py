"""What Grafana reads at its start: valid, and at one with the rest of the repository."""

from __future__ import annotations

import re
from typing import Any

import yaml
from generator import facts
from grafana_files import DASHBOARD_FILES, GRAFANA

PROVISIONING = GRAFANA / "provisioning"
#: Provisioning expands these; docker-compose.yml and `make demo` set them.
ENVIRONMENT = {"PROMETHEUS_URL": "http://prometheus:9090", "DASHBOARDS_DIR": "/dashboards"}


def read(kind: str) -> dict[str, Any]:
    (file,) = (PROVISIONING / kind).glob("*.yml")
    text = file.read_text(encoding="utf-8")
    expanded = re.sub(r"\$(\w+)", lambda m: ENVIRONMENT[m[1]], re.sub(r"#.*", "", text))
    return dict(yaml.safe_load(expanded))


def test_data_source() -> None:
    provisioned = read("datasources")
    assert provisioned["apiVersion"] == 1
    (source,) = provisioned["datasources"]
    assert (source["uid"], source["type"], source["access"]) == ("prometheus", "prometheus", "proxy")
    assert source["url"] == "http://prometheus:9090"
    assert source["editable"] is False
    assert source["isDefault"] is True
    assert source["jsonData"]["httpMethod"] == "POST"


def test_the_data_source_knows_the_scrape_interval() -> None:
    """`$__rate_interval` is four of them: with a wrong one, rates are empty or blurred."""
    (source,) = read("datasources")["datasources"]
    config = yaml.safe_load(facts.PROMETHEUS_CONFIG.read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_dashboards() -> None:
    provisioned = read("dashboards")
    assert provisioned["apiVersion"] == 1
    (provider,) = provisioned["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/dashboards"
    assert provider["allowUiUpdates"] is False
    assert provider["disableDeletion"] is True
    assert DASHBOARD_FILES


def test_compose_sets_the_environment_and_mounts_the_directories() -> None:
    compose = yaml.safe_load((facts.ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    service = compose["services"]["grafana"]
    mounts = dict(mount.split(":")[:2] for mount in service["volumes"])
    assert set(ENVIRONMENT) <= set(service["environment"])
    assert service["environment"]["DASHBOARDS_DIR"] == mounts["./grafana/dashboards"]
    assert service["environment"]["GF_PATHS_PROVISIONING"] == mounts["./grafana/provisioning"]
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.removeprefix(mounts["./grafana/dashboards"] + "/") == "wall.json"
    assert "wall.json" in {file.name for file in DASHBOARD_FILES}


def test_pictures_are_there_and_small() -> None:
    """Those that README and docs show; `make screenshots` makes them."""
    root = facts.ROOT
    shown = set()
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        links = re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", page.read_text(encoding="utf-8"))
        shown |= {(page.parent / link).resolve() for link in links if "://" not in link}
    assert shown == {path.resolve() for path in (root / "docs" / "images").glob("*.png")}
    assert sum(path.stat().st_size for path in shown) < 800_000
