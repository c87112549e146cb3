"""What Pleiades is deployed with: scripts of the image, compose, manifests, units."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas.service_settings import MEBIBYTE, ApiSettings
from maia import cli
from maia.agents import AGENTS
from maia.commands.config import every_setting

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE = ROOT / "docker/compose.yaml"
KUBERNETES = ROOT / "deployments/kubernetes"
NGINX = ROOT / "deployments/nginx"
SWARM = ROOT / "deployments/swarm/stack.yaml"
SYSTEMD = ROOT / "deployments/systemd"
OF_NO_COMMAND = ("pleiades-privileged@", "pleiades-rollback")
UNITS = sorted(unit for unit in SYSTEMD.glob("*/*.service") if unit.stem not in OF_NO_COMMAND)
EVERY = ROOT / "docker/every"
ENTRYPOINT = ROOT / "docker/entrypoint"

units = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: f"{unit.parent.name}-{unit.stem}")
overlays = pytest.mark.parametrize("folder", ["base", "overlays/small", "overlays/production"])


def assert_known(words: list[str]) -> None:
    """That `maia WORDS` is a command with these options."""
    name, *rest = words
    assert name in cli.COMMANDS, f"maia {name}"
    command = cli.load_command(name)
    command = getattr(command, "commands", {}).get(getattr(command, "default", ""), command)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known, words


def maia_in(words: list[str]) -> list[str] | None:
    """What is handed to maia in a command line, None if it runs something else."""
    return words[words.index("maia") + 1 :] if "maia" in words else None


# The image's scripts


def test_every_repeats_and_ends_with_the_status_of_what_fails(tmp_path: Path) -> None:
    turns = tmp_path / "turns"
    script = f'echo turn >> {turns}; [ "$(wc -l < {turns})" -lt 3 ] || exit 75'
    ended = subprocess.run([EVERY, "0", "sh", "-c", script], timeout=60)
    assert ended.returncode == 75
    assert turns.read_text() == "turn\n" * 3


@pytest.mark.parametrize("seconds", ["0", "3600"])
def test_sigterm_ends_what_every_runs_and_then_itself(tmp_path: Path, seconds: str) -> None:
    fifo, ended = tmp_path / "fifo", tmp_path / "ended"
    subprocess.run(["mkfifo", fifo], check=True)
    work = f"trap 'kill $!; echo given back > {ended}; exit 143' TERM; echo ready > {fifo}; sleep 60 & wait"
    script = work if seconds == "0" else f"echo ready > {fifo}"
    process = subprocess.Popen([EVERY, seconds, "sh", "-c", script])
    assert fifo.read_text() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert ended.exists() == (seconds == "0")


def entered(tmp_path: Path, environment: dict[str, str]) -> str:
    script = ENTRYPOINT.read_text().replace("/opt/prefect", str(tmp_path / "baked"))
    (tmp_path / "baked").mkdir()
    (tmp_path / "baked/prefect.db").write_text("migrated")
    copy = tmp_path / "entrypoint"
    copy.write_text(script)
    copy.chmod(0o755)
    command = [copy, "sh", "-c", 'echo "$PREFECT_HOME"; cat "$PREFECT_HOME/prefect.db"; exit 75']
    answer = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 75
    return answer.stdout


def test_a_container_begins_with_a_copy_of_the_migrated_home(tmp_path: Path) -> None:
    home, content = entered(tmp_path, {}).splitlines()
    assert content == "migrated"
    assert Path(home).parent == tmp_path
    assert Path(home) != tmp_path / "baked"
    assert Path(home).stat().st_mode & 0o077 == 0


def test_a_home_that_is_given_stays(tmp_path: Path) -> None:
    assert entered(tmp_path, {"PREFECT_HOME": str(tmp_path)}).splitlines() == [str(tmp_path)]


# Compose


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    found: dict[str, dict[str, Any]] = content["services"]
    return found


def test_every_service_is_confined(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert {"cpus", "memory", "pids"} == set(service["deploy"]["resources"]["limits"]), name
        assert not service.get("privileged"), name


def test_every_lasting_service_tells_whether_it_is_well(services: dict[str, dict[str, Any]]) -> None:
    once = {"migrate", "provision"}
    agents_have_the_image_s_own = {agent.name for agent in AGENTS}
    for name in services.keys() - once - agents_have_the_image_s_own:
        assert "test" in services[name]["healthcheck"], name
    for name in once:
        assert services[name]["restart"].startswith("on-failure"), name


def test_everything_waits_for_the_migrations(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if "pleiades" in service["image"] and name != "migrate":
            assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}, name
            assert service["environment"]["PLEIADES_DATABASE__MIGRATE"] == "false", name


def test_ports_are_open_to_this_machine_alone(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in ports)


def test_commands_of_compose_exist(services: dict[str, dict[str, Any]]) -> None:
    found = [words for service in services.values() if (words := maia_in(service.get("command", [])))]
    assert len(found) >= 5
    for words in found:
        assert_known(words)


def test_the_example_names_what_compose_reads(services: dict[str, dict[str, Any]]) -> None:
    example = dict(
        re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / "docker/.env.example").read_text("utf-8"), re.MULTILINE)
    )
    read = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text("utf-8")))
    others_images = {f"{name}_IMAGE" for name in ("POSTGRES", "PROMETHEUS", "GRAFANA", "REDIS", "NGINX")}
    assert read - others_images - {"PLEIADES_LOG__JSON_LINES"} <= set(example)
    settings = {setting.variable for setting in every_setting()}
    assert set(example) <= read | settings
    assert not [value for value in example.values() if value.startswith(("'", '"'))]


def test_the_balancer_is_before_the_processes_of_compose(services: dict[str, dict[str, Any]]) -> None:
    nodes = re.findall(r"^server (\S+):8080 ", (NGINX / "nodes.conf").read_text("utf-8"), re.MULTILINE)
    assert nodes == ["node-1", "node-2", "node-3"]
    assert list(services["balancer"]["depends_on"]) == nodes
    for name in nodes:
        assert services[name]["command"][-2:] == ["--port", "8080"]
        assert services[name]["profiles"] == services["balancer"]["profiles"] == ["nodes"]
        assert services[name]["ports"] == []


def test_the_balancer_leaves_it_to_the_service_to_refuse_what_is_too_long() -> None:
    text = (NGINX / "nginx.conf").read_text("utf-8")
    [longest_mib] = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(longest_mib) * MEBIBYTE > ApiSettings().most_body_bytes
    # What a location sets of these takes the place of all of the server's.
    assert "proxy_set_header" not in text.partition("location / {")[2]


# Swarm


@pytest.fixture(scope="module")
def swarm() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(SWARM.read_text("utf-8"))
    return content


def test_commands_of_the_swarm_exist(swarm: dict[str, Any]) -> None:
    found = [maia_in(service["command"]) for service in swarm["services"].values()]
    assert len(found) == len(AGENTS) + 2
    for words in found:
        assert words is not None
        assert_known(words)


def test_everything_in_the_swarm_is_confined_and_gets_secrets_as_files(swarm: dict[str, Any]) -> None:
    known = {setting.variable for setting in every_setting()}
    for name, service in swarm["services"].items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert {"cpus", "memory", "pids"} == set(service["deploy"]["resources"]["limits"]), name
        secrets = {secret["source"]: secret["target"] for secret in service["secrets"]}
        assert secrets.keys() == swarm["secrets"].keys(), name
        assert {target.upper() for target in secrets.values()} <= known, name
        assert set(service["environment"]) <= known, name


def test_a_new_process_of_the_swarm_is_well_before_an_old_one_goes(swarm: dict[str, Any]) -> None:
    api = swarm["services"]["api"]
    assert api["deploy"]["replicas"] == 3
    assert api["deploy"]["update_config"]["order"] == "start-first"
    assert api["healthcheck"]["test"][-1].endswith("/healthz")


# Kubernetes


def rendered(folder: str) -> Iterator[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    answer = subprocess.run(["kubectl", "kustomize", KUBERNETES / folder], check=True, capture_output=True)
    yield from yaml.safe_load_all(answer.stdout)


def pods(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for resource in rendered(folder):
        if template := resource.get("spec", {}).get("template"):
            yield f"{resource['kind']} {resource['metadata']['name']}", template["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@overlays
def test_every_pod_is_confined(folder: str) -> None:
    found = list(pods(folder))
    assert len(found) >= 5
    for name, pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in containers(pod):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True, name
            assert rights["allowPrivilegeEscalation"] is False, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
            assert {"cpu", "memory"} == set(container["resources"]["requests"]), name


@pytest.mark.parametrize("folder", ["overlays/small", "overlays/production"])
def test_the_image_that_an_overlay_names_is_what_runs(folder: str) -> None:
    [image] = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text("utf-8"))["images"]
    used = {container["image"] for _, pod in pods(folder) for container in containers(pod)}
    ours = {name for name in used if "timescale" not in name}
    assert (image["name"], ours) == ("pleiades", {f"{image['newName']}:{image['newTag']}"})


@overlays
def test_lasting_pods_have_probes(folder: str) -> None:
    for name, pod in pods(folder):
        if not name.startswith("Job "):
            for container in pod["containers"]:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name


@overlays
def test_secrets_are_only_referred_to(folder: str) -> None:
    kinds = [resource["kind"] for resource in rendered(folder)]
    assert "Secret" not in kinds
    for resource in rendered(folder):
        if resource["kind"] == "ConfigMap":
            assert not {"DATABASE_URL", "YOUTUBE_API_KEY_POOL_JSON", "HF_TOKEN"} & set(resource["data"])


@overlays
def test_settings_of_the_manifests_exist(folder: str) -> None:
    known = {setting.variable for setting in every_setting()}
    for resource in rendered(folder):
        if resource["kind"] == "ConfigMap":
            ours = {name for name in resource["data"] if name.startswith("PLEIADES_")}
            assert ours <= known


@overlays
def test_commands_of_the_manifests_exist(folder: str) -> None:
    found = []
    for _, pod in pods(folder):
        for container in containers(pod):
            words = [word for arg in container["args"] for word in shlex.split(arg.replace(";", " "))]
            found += [line[: line.index("do")] if "do" in line else line for line in [maia_in(words)] if line]
    assert len(found) >= 5
    for words in found:
        assert_known(words)


def test_what_scales_by_its_load_has_no_number_of_its_own() -> None:
    resources = list(rendered("overlays/production"))
    deployments = {r["metadata"]["name"]: r["spec"] for r in resources if r["kind"] == "Deployment"}
    scaled = [
        r["spec"]["scaleTargetRef"]["name"] for r in resources if r["kind"] == "HorizontalPodAutoscaler"
    ]
    assert sorted(scaled) == ["api", "worker"]
    for name in scaled:
        assert "replicas" not in deployments[name]
        [container] = deployments[name]["template"]["spec"]["containers"]
        # Their load is a share of what they ask for.
        assert "cpu" in container["resources"]["requests"]


@overlays
def test_every_selector_finds_its_pods(folder: str) -> None:
    resources = list(rendered(folder))
    labels = [
        r["spec"]["template"]["metadata"]["labels"] for r in resources if "template" in r.get("spec", {})
    ]
    for resource in resources:
        spec = resource.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if resource["kind"] in {"NetworkPolicy", "PodDisruptionBudget", "Service"}:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= pod.items() for pod in labels), resource["metadata"]["name"]


# The image


def test_the_image_is_built_with_what_links_of_the_packages_lead_to() -> None:
    context = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    steps = (ROOT / "docker/Dockerfile").read_text("utf-8").splitlines()
    for package in ("atlas", "maia", "flows"):
        for link in filter(Path.is_symlink, (ROOT / package).rglob("*")):
            target = link.resolve().relative_to(ROOT).as_posix()
            assert f"!{target}" in context
            assert f"COPY {target} {target}" in steps


# systemd


def read(unit: Path) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit.read_text("utf-8"))
    return parser


@units
def test_units_run_commands_that_exist(unit: Path) -> None:
    program, *words = read(unit)["Service"]["ExecStart"].split()
    assert program.endswith("/bin/maia")
    # A template is for every agent, whose name is its instance's.
    for instance in [agent.name for agent in AGENTS] if unit.stem.endswith("@") else [""]:
        assert_known([word.replace("%i", instance) for word in words])


@units
def test_neither_a_rate_limit_nor_being_stopped_is_a_failure(unit: Path) -> None:
    service = read(unit)["Service"]
    if service["Type"] == "oneshot":
        assert service["SuccessExitStatus"] == "75 143"
        assert read(unit.with_suffix(".timer"))["Timer"]["OnCalendar"]
    else:
        assert service["Restart"] == "always"
        assert service["SuccessExitStatus"] == "143"
        assert service["RestartPreventExitStatus"] == "2 78"


@pytest.mark.parametrize("scope", ["system", "user"])
def test_everything_on_one_machine_is_watched_and_limited(scope: str) -> None:
    service = read(SYSTEMD / scope / "pleiades.service")["Service"]
    assert (service["Type"], service["WatchdogSec"]) == ("notify", "3min")
    assert (service["MemoryMax"], service["CPUQuota"]) == ("4G", "200%")
    assert service["NoNewPrivileges"] == "yes"
    if scope == "system":
        assert (service["ProtectSystem"], service["StateDirectory"]) == ("strict", "pleiades")


def test_a_backup_that_was_missed_is_made_up_for() -> None:
    for scope in ("system", "user"):
        assert read(SYSTEMD / scope / "pleiades-backup.timer")["Timer"]["Persistent"] == "yes"


def verbs_of_root() -> dict[str, list[list[str]]]:
    verbs: dict[str, list[list[str]]] = {}
    for line in (SYSTEMD / "privileged/privileged").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            verb, *command = line.split()
            verbs.setdefault(verb, []).append(command)
    return verbs


def test_polkit_and_root_allow_the_same_verbs() -> None:
    rule = (SYSTEMD / "polkit/49-pleiades.rules").read_text("utf-8")
    listed = re.search(r"var verbs = (\[[^]]*\])", rule)
    assert listed is not None
    assert yaml.safe_load(listed[1]) == list(verbs_of_root())
    of_verbs = {folder.name for folder in (SYSTEMD / "system").glob("pleiades-privileged@?*.service.d")}
    assert of_verbs <= {f"pleiades-privileged@{verb}.service.d" for verb in verbs_of_root()}


def test_root_restarts_units_that_exist() -> None:
    for verb, commands in verbs_of_root().items():
        if verb.startswith("restart-"):
            unit = verb.removeprefix("restart-") + ".service"
            assert commands == [["/usr/bin/systemctl", "restart", unit]]
            assert (SYSTEMD / "system" / unit).is_file()
