"""The chart of deploy/helm: what the real helm makes of it is valid Kubernetes, and is ours."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.helm import helm

from taximeter.api.commands import COMMANDS
from taximeter.api.settings.api import ApiSettings
from taximeter.api.settings.sidecar import SidecarSettings
from taximeter.settler.books.settings import SettlerSettings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "taximeter"
NEWEST = tuple(int(part) for part in kubernetes_validate.latest_version().split(".")[:2])
VERSIONS = [f"{NEWEST[0]}.{NEWEST[1] - back}" for back in range(3)]
NEEDED = {
    "image.repository": "registry.example/taximeter",
    "secrets.owner": "owner",
    "secrets.api": "api",
    "secrets.settler": "settler",
    "secrets.sidecar": "sidecar",
}
EVERYTHING = {
    **NEEDED,
    "image.digest": "sha256:" + "0" * 64,
    "api.autoscaling.enabled": "true",
    "api.autoscaling.llmRequests": "20",
    "sidecar.autoscaling.enabled": "true",
    "sidecar.autoscaling.waitingOperations": "50",
    "sidecar.persistence.enabled": "true",
    "metrics.podMonitor.enabled": "true",
    "networkPolicy.egress[0].to[0].ipBlock.cidr": "10.0.0.0/8",
    "nodeSelector.disk": "fast",
    "tracing.endpoint": "http://collector:4318",
    "settings.OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
}
LEAST = {
    **NEEDED,
    "sidecar.enabled": "false",
    "migrate.enabled": "false",
    "networkPolicy.enabled": "false",
    "topologySpread.enabled": "false",
    "api.persistence.enabled": "false",
}
OF = {"api": ApiSettings, "settler": SettlerSettings, "sidecar": SidecarSettings}


def run(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    given = [
        f"--set{'-string' if 'settings.' in name else ''}={name}={value}"
        for name, value in values.items()
    ]
    return subprocess.run(
        [str(helm()), *arguments, *given], capture_output=True, text=True, timeout=120, check=False
    )


def rendered(values: dict[str, str]) -> list[dict[str, Any]]:
    done = run("template", "meter", str(CHART), "--namespace", "billing", **values)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod of each process, by its name."""
    found = [one["spec"]["template"] for one in documents if "template" in one.get("spec", {})]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in found}


@pytest.mark.parametrize(
    "values", [NEEDED, EVERYTHING, LEAST], ids=["needed", "everything", "least"]
)
def test_it_is_valid_kubernetes(values: dict[str, str]) -> None:
    linted = run("lint", "--strict", str(CHART), **values)
    assert linted.returncode == 0, linted.stdout
    documents = rendered(values)
    names = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(names) == len(set(names))
    for document in documents:
        if document["kind"] == "PodMonitor":  # Of Prometheus' operator, not of Kubernetes.
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def test_what_is_missing_or_wrong_is_said_by_name() -> None:
    for name in NEEDED:
        done = run("template", "meter", str(CHART), **(NEEDED | {name: ""}))
        assert done.returncode != 0
        assert name in done.stderr
    for name, value, said in (
        ("api.replicas", "-1", "/api/replicas"),
        ("api.replica", "2", "'replica' not allowed"),
        ("image.digest", "latest", "/image/digest"),
        ("settings.SHARDS", "4", "settings: SHARDS is no setting"),
        ("networkPolicy.enabled", "yes", "/networkPolicy/enabled"),
        ("tracing.endpoint", "collector:4317", "/tracing/endpoint"),
        ("settings.OTEL_EXPORTER_OTLP_HEADERS", "k=v", "HEADERS would hold a key"),
    ):
        done = run("template", "meter", str(CHART), **(NEEDED | {name: value}))
        assert done.returncode != 0, name
        assert said in done.stderr, name
    wrong = {"settings.TAXIMETER_REDIS_URL": "redis://ann:secret@redis:6379/0"}
    done = run("template", "meter", str(CHART), **(NEEDED | wrong))
    assert "TAXIMETER_REDIS_URL has a password in it" in done.stderr


def test_every_value_is_described_and_has_its_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))

    def compare(place: str, schema: dict[str, Any], value: Any) -> None:
        assert schema.get("description"), place
        properties = schema.get("properties")
        if properties is not None:
            assert set(properties) - {"global"} == set(value), place
            for name, one in value.items():
                compare(f"{place}.{name}", properties[name], one)

    compare("values", schema, values)


def test_only_the_settler_gets_out_to_receivers_of_notices() -> None:
    """Where nobody says where processes may connect to, all may anywhere."""
    for values, of_all in ((NEEDED, 0), (EVERYTHING, 1)):
        policies = {
            one["metadata"]["name"]: one["spec"]
            for one in rendered(values)
            if one["kind"] == "NetworkPolicy"
        }
        assert len(policies) == 4
        for name, spec in policies.items():
            assert ("Egress" in spec["policyTypes"]) == bool(of_all)
            rules = spec.get("egress", [])
            ports = [port["port"] for rule in rules for port in rule.get("ports", ())]
            assert ports == ([443, 465, 587] if of_all and "settler" in name else [])
            assert len(rules) == of_all + bool(ports)


def test_settings_are_those_of_the_code() -> None:
    for process, pod in pods(rendered(EVERYTHING)).items():
        [container] = pod["spec"]["containers"]
        assert container["args"][0] in COMMANDS
        env = {one["name"]: one["value"] for one in container["env"]}
        names = {name for name in env if name.startswith("TAXIMETER_")}
        if process in OF:
            known = {f"TAXIMETER_{name.upper()}" for name in OF[process].model_fields}
            assert names <= known
            assert len(names) >= 2
            assert env["TAXIMETER_TRACING"] == "true"
            assert env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
            assert env["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio"
        else:
            assert not names


def test_a_setting_of_one_process_counts_before_that_of_all() -> None:
    shared = {"settings.TAXIMETER_SHARDS": "4", "api.settings.TAXIMETER_SHARDS": "8"}
    found = {
        process: {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
        for process, pod in pods(rendered(NEEDED | shared)).items()
    }
    assert found["api"]["TAXIMETER_SHARDS"] == "8"
    assert found["settler"]["TAXIMETER_SHARDS"] == "4"
    assert "TAXIMETER_SHARDS" not in found["migrate"]


def test_processes_have_no_rights_and_their_own_secrets_alone() -> None:
    for process, pod in pods(rendered(EVERYTHING)).items():
        spec, [container] = pod["spec"], pod["spec"]["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["image"].endswith("@sha256:" + "0" * 64)
        secrets = [one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one]
        assert secrets == ["owner" if process == "migrate" else process]
        assert not any("valueFrom" in one for one in container["env"])


def test_each_process_is_asked_and_stopped_as_it_answers() -> None:
    found = pods(rendered(EVERYTHING))
    for process in OF:
        spec, [container] = found[process]["spec"], found[process]["spec"]["containers"]
        ports = {one["name"] for one in container["ports"]}
        for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"]["path"] == path
            assert container[probe]["httpGet"]["port"] in ports
        fields = OF[process].model_fields
        names = [name for name in ("shutdown_grace_s", "sidecar_drain_s", "sidecar_grace_s")
                 if name in fields]  # fmt: skip
        assert sum(fields[name].default for name in names) < spec["terminationGracePeriodSeconds"]


def test_what_was_not_charged_yet_outlives_its_pod() -> None:
    [api] = [one for one in rendered(NEEDED) if one["metadata"]["name"] == "meter-api"
             and one["kind"] == "StatefulSet"]  # fmt: skip
    assert api["spec"]["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    mounts = api["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "data", "mountPath": "/var/lib/taximeter"} in mounts


def test_every_pod_that_listens_is_behind_a_policy() -> None:
    documents = rendered(EVERYTHING)
    policies = {
        one["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: one["spec"]
        for one in documents
        if one["kind"] == "NetworkPolicy"
    }
    for process, pod in pods(documents).items():
        spec = policies[process]
        open_ports = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
        ports = pod["spec"]["containers"][0].get("ports", [])
        assert open_ports == {one["containerPort"] for one in ports}
        assert all(rule["from"] for rule in spec["ingress"]), "a rule without peers lets all in"
        assert spec["policyTypes"] == ["Ingress", "Egress"]


def test_the_chart_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == project["version"]
