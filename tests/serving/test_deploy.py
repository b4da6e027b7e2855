"""What is in ``deploy/``, as far as it can be checked without a container engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.http import telemetry

FIGURE = re.compile(r"\b(ibt_[a-z_]+?)(?:_total|_bucket|_sum|_count)?\b(?=[{\[)\s]|$)")


@pytest.fixture
def deploy(root: Path) -> Path:
    return root / "deploy"


def manifests(deploy: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((deploy / "kubernetes" / "ibt.yaml").read_text(encoding="utf-8")))


def test_dashboard_and_rules_ask_for_figures_that_exist(deploy: Path) -> None:
    board = json.loads((deploy / "grafana" / "ibt.json").read_text(encoding="utf-8"))
    rules = yaml.safe_load((deploy / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    named = {name for expression in asked for name in FIGURE.findall(expression)}
    exposed = set(re.findall(rb"^# TYPE (ibt_\w+?)(?:_total)? ", telemetry.exposition(), re.MULTILINE))
    assert len(named) >= 8
    assert named <= {name.decode() for name in exposed}


def test_manifests_are_as_kubernetes_knows_them(deploy: Path) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for manifest in manifests(deploy):
        validator.validate(manifest, "1.29", strict=True)


def test_a_pod_may_do_nothing_that_it_need_not(deploy: Path) -> None:
    (pod,) = (m["spec"]["template"]["spec"] for m in manifests(deploy) if m["kind"] == "Deployment")
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (policy,) = (m["spec"] for m in manifests(deploy) if m["kind"] == "NetworkPolicy")
    assert policy["egress"] == []
    assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= container.keys()


def test_compose_mounts_only_files_that_exist(deploy: Path) -> None:
    compose = yaml.safe_load((deploy / "compose.yaml").read_text(encoding="utf-8"))
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (deploy / source).exists()
        assert set(service["networks"]) <= compose["networks"].keys()
        assert set(service["secrets"]) <= compose["secrets"].keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_rules_fire_when_they_should(deploy: Path) -> None:
    ran = subprocess.run(
        ["promtool", "test", "rules", deploy / "prometheus" / "rules_test.yml"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


ORU = """MSH|^~\\&|MONITOR|ICU|IBT|LAB|20261128063000||ORU^R01^ORU_R01|1|P|2.5.1
PID|1||4711||Doe^Jane
PV1|1|I|ICU^1^1||||||||||||||||V12345^^^HOSP|||||||||||||||||||||||||20261128030000
OBR|1|||VITALS|||202611280625
OBX|1|NM|8867-4^Heart rate^LN||104|/min|||||F
OBX|2|NM|8310-5^Body temperature^LN||38.4|Cel|||||F
OBX|3|NM|8867-4^Heart rate^LN||300|/min|||||X
OBX|4|NM|2345-7^Glucose^LN||99|mg/dL|||||F
"""


def node(deploy: Path, script: str, *values: Any) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    program = (
        f"const s = require({json.dumps(str(deploy / 'hl7' / 'sepsis.js'))}); const a = {json.dumps(values)};"
    )
    return subprocess.run(["node", "-e", f"{program} {script}"], capture_output=True, text=True, timeout=60)


def test_hl7_in_and_out(deploy: Path, client: Any) -> None:
    ran = node(deploy, "console.log(JSON.stringify(s.rowOf(a[0])))", ORU)
    asked = json.loads(ran.stdout)
    assert asked == {"visit": "V12345", "row": {"ICULOS": 4, "HR": 104, "Temp": 38.4}}
    answer = client.post("/v1/sepsis/next", json={"rows": [asked["row"]]}).json()
    (hour,) = answer["hours"]
    ran = node(deploy, "process.stdout.write(s.oruOf(a[0], a[1], 'X1', '20261128063100'))", ORU, answer)
    segments = [line.split("|") for line in ran.stdout.splitlines() if line]
    assert [segment[0] for segment in segments] == ["MSH", "PID", "PV1", "OBR", "OBX"]
    result = segments[-1]
    assert float(result[5]) == hour["risk"]
    assert result[8] == ("H" if hour["alarm"] else "N")
    assert result[11] == "F"
    assert segments[0][4:6] == ["MONITOR", "ICU"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("|Cel|", "|[degF]|", "Temp must be a number in Cel"),
        ("|104|", "|1O4|", "HR is not a number"),
        ("202611280625", "", "OBR-7"),
        ("202611280625", "202611270625", "before the admission"),
        ("PV1|", "ZZ1|", "no segment PV1"),
    ],
)
def test_hl7_that_cannot_be_trusted_is_an_error(deploy: Path, old: str, new: str, message: str) -> None:
    assert old in ORU
    ran = node(deploy, "s.rowOf(a[0])", ORU.replace(old, new, 1))
    assert ran.returncode != 0
    assert message in ran.stderr
