"""The image and its stack: small, without rights, root not written to; 75 brings a fresh start."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from maia import agents
from tests.images.stack import PROJECT, ROOT, Engine, Stack
from tests.waiting import until

pytestmark = pytest.mark.timeout(1800)

AGENTS = tuple(agent.name for agent in agents.AGENTS)
CONFINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
SLIM_BYTES = 130_000_000
"""What Docker's slim image of Python takes, of which the stand-in is twice the size."""

Run = Callable[..., subprocess.CompletedProcess[str]]


BALANCED = "http://balancer:8080"
MANY_TIMES = 2_000
MANY = """
import collections, json, sys, threading, time, urllib.request
told, left = collections.Counter(), iter(range(int(sys.argv[3])))
def ask():
    for _ in left:
        request = urllib.request.Request(sys.argv[1], headers={"X-API-Key": sys.argv[2]})
        try:
            told[urllib.request.urlopen(request, timeout=30).status] += 1
        except OSError as error:
            told[repr(error)] += 1
threads = [threading.Thread(target=ask) for _ in range(8)]
[each.start() for each in threads], [each.join() for each in threads]
print(json.dumps(told))
"""
"""Asks a URL with a key so many times, and prints how often it was answered how."""


@pytest.fixture
def run(stack: Stack, image: str) -> Run:
    """Runs a command in a container of its own that meets database and emulator."""

    def in_container(*command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        practice = dict(entry.split("=", 1) for entry in stack.container("seed")["Config"]["Env"])
        environment = {
            "DATABASE_URL": practice["DATABASE_URL"],
            "YOUTUBE_API_KEY_POOL_JSON": '[{"key": "demo-1", "project": "demo"}]',
            "PLEIADES_YOUTUBE__BASE_URL": "http://emulator:8780",
            "PLEIADES_QUOTA__PACING": "false",
            "PLEIADES_TRACKER__COLD_INTERVAL_H": "0.001",
        }
        networks = (f"--network={PROJECT}_data", f"--network={PROJECT}_outside")
        given = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        return stack.engine.podman(
            "run", *CONFINED, *networks, *given, *options, image, *command, check=False
        )

    return in_container


def test_the_image_is_small_and_tells_what_it_is(engine: Engine, base: str, image: str) -> None:
    described = engine.inspect(image)
    own_bytes = described["Size"] - engine.inspect(base)["Size"]
    print(f"{own_bytes / 1e6:.0f} MB beside the base")
    # SciPy, which the learner needs, is a quarter of it.
    assert own_bytes + SLIM_BYTES < 600_000_000
    labels = described["Labels"]
    assert labels["org.opencontainers.image.title"] == "Pleiades"
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert described["User"] == "10001:10001"
    assert described["Config"]["Entrypoint"][0] == "tini"
    assert described["Healthcheck"]["Test"] == ["CMD", "maia", "migrate", "--check"]


def test_it_runs_for_nobody_on_a_root_that_cannot_be_written(engine: Engine, image: str) -> None:
    answer = engine.podman("run", "--rm", *CONFINED, image, "maia", "--version")
    assert answer.stdout.startswith("pleiades ")
    told = engine.podman("run", "--rm", *CONFINED, image, "sh", "-c", "id -un; touch /srv/x", check=False)
    assert told.stdout == "pleiades\n"
    assert told.returncode == 1
    assert "Read-only file system" in told.stderr


def test_hunter_and_tracker_do_their_work_in_it(run: Run) -> None:
    hunted = run("python", "-m", "maia", "hunter", "--direct", "--json", options=("--rm",))
    assert hunted.returncode == 0, hunted.stderr
    assert json.loads(hunted.stdout)["new"] > 0
    for _ in range(5):
        tracked = run("python", "-m", "maia", "tracker", "--direct", "--json", options=("--rm",))
        assert tracked.returncode == 0, tracked.stderr
        if json.loads(tracked.stdout)["samples"]:
            return
    pytest.fail("the tracker took no sample")


def test_a_flow_needs_no_server_but_the_one_it_brings(run: Run) -> None:
    answer = run("python", "-m", "maia", "hunter", "--json", options=("--rm",))
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["outcome"] in {"done", "idle"}


def test_75_brings_a_fresh_container(stack: Stack, run: Run) -> None:
    stack.set_faults("429-minute:1")
    name = f"{PROJECT}-limited"
    try:
        options = ("--detach", "--name", name, "--restart=on-failure:2")
        run("every", "1", "python", "-m", "maia", "hunter", "--direct", options=options)
        restarted = until("a restart", lambda: stack.engine.inspect(name)["RestartCount"])
        assert restarted >= 1
        said = stack.engine.podman("logs", name)
        assert "rate_limited" in said.stdout + said.stderr
    finally:
        stack.engine.podman("rm", "--force", "--time", "20", name)
        stack.set_faults()


def test_the_stack_comes_up_and_works(stack: Stack) -> None:
    services = (*AGENTS, "metrics", "server", "provision", "worker", "prometheus")
    stack.compose("--profile", "redis", "up", "--detach", "--no-build", *services, "redis")
    for service in ("postgres", "metrics", "server", "worker", "prometheus", "redis", *AGENTS):
        state = until(f"{service} is healthy", lambda s=service: healthy(stack, s))
        assert state["Status"] == "running", service
    for service in ("migrate", "provision"):
        assert stack.container(service)["State"]["ExitCode"] == 0, stack.logs(service)
    assert stack.execute("redis", "redis-cli", "ping") == "PONG\n"


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    """A key of the service, made as compose.yaml says."""
    command = ("maia", "keys", "api", "add", "practice", "--scope", "admin", "--rate", "100000")
    told = stack.compose("run", "--rm", "--no-TTY", "--no-deps", "metrics", *command, "--json")
    return str(json.loads(told)["key"])


def test_the_service_runs_once_there_is_a_key(stack: Stack, key: str) -> None:
    stack.compose("up", "--detach", "--no-build", "--no-deps", "api")
    until("the service is healthy", lambda: healthy(stack, "api"))
    listed = json.loads(stack.ask("metrics", "http://api:8080/api/v1/videos", **{"X-API-Key": key}))
    assert listed["videos"]
    with pytest.raises(AssertionError, match="401"):
        stack.ask("metrics", "http://api:8080/api/v1/videos")


def test_processes_behind_nginx_answer_while_one_of_them_is_killed_and_made_anew(
    stack: Stack, key: str
) -> None:
    nodes = ("node-1", "node-2", "node-3")
    stack.compose("--profile", "nodes", "up", "--detach", "--no-build", "--no-deps", *nodes, "balancer")
    until("the balancer is healthy", lambda: healthy(stack, "balancer"))
    with pytest.raises(AssertionError, match="401"):
        stack.ask("metrics", f"{BALANCED}/statistics")

    def told(count: int) -> dict[str, int]:
        script = ("python", "-c", MANY, f"{BALANCED}/statistics", key, str(count))
        return dict(json.loads(stack.execute("metrics", *script)))

    with ThreadPoolExecutor(1) as other:
        asked = other.submit(told, MANY_TIMES)
        until("some are answered", lambda: requests_of(stack, "node-2", key) > 50)
        stack.engine.podman("kill", "--signal", "KILL", f"{PROJECT}-node-2-1")
        assert not asked.done()
        assert asked.result() == {"200": MANY_TIMES}
    stack.compose(
        "--profile", "nodes", "up", "--detach", "--no-build", "--no-deps", "--force-recreate", "node-2"
    )
    until("node-2 is healthy", lambda: healthy(stack, "node-2"))
    stack.compose("--profile", "nodes", "kill", "--signal", "HUP", "balancer")
    until("node-2 is asked again", lambda: told(10) and requests_of(stack, "node-2", key) > 0)


def test_the_pod_of_the_service_in_kubernetes_runs(
    stack: Stack, image: str, key: str, tmp_path: Path
) -> None:
    """podman runs its manifest without probes, ports and the secret, for which a folder stands in."""
    name, manifest = "api-pod-0-api", tmp_path / "api.yaml"
    database = dict(entry.split("=", 1) for entry in stack.container("seed")["Config"]["Env"])["DATABASE_URL"]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "database_url").write_text(database)
    (secrets / "youtube_api_key_pool_json").write_text("[]")
    manifest.write_text(yaml.safe_dump_all(manifests_of_the_service(image, secrets)))
    stack.engine.podman("kube", "play", "--network", f"{PROJECT}_data", str(manifest))
    try:
        described = stack.engine.inspect(name)
        assert described["HostConfig"]["ReadonlyRootfs"]
        assert described["HostConfig"]["Memory"] == 2**30
        assert described["EffectiveCaps"] in ([], None)
        assert described["Config"]["User"] == "10001:10001"
        infra = stack.engine.inspect(f"{described['Pod'][:12]}-infra")
        address = infra["NetworkSettings"]["Networks"][f"{PROJECT}_data"]["IPAddress"]
        until("the pod serves", lambda: "The dashboard is at" in stack.engine.podman("logs", name).stdout)
        url = f"http://{address}:8080/api/v1/videos"
        assert json.loads(stack.ask("metrics", url, **{"X-API-Key": key}))["videos"]
        stack.engine.podman("pod", "stop", "--time", "30", "api-pod-0")
        assert stack.engine.inspect(name)["State"]["ExitCode"] == 143
    finally:
        stack.engine.podman("kube", "down", str(manifest), check=False)


def manifests_of_the_service(image: str, secrets: Path) -> list[dict[str, Any]]:
    """Deployment and settings of the service, as far as podman can run them, with secrets from a folder."""
    kustomized = subprocess.run(
        ["kubectl", "kustomize", "deployments/kubernetes/overlays/small"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    named = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(kustomized)}
    deployment = named["Deployment", "api"]
    [settings] = [each for (kind, name), each in named.items() if kind == "ConfigMap" and "settings" in name]
    pod = deployment["spec"]["template"]["spec"]
    for container in (*pod["containers"], *pod["initContainers"]):
        container |= {"image": image, "imagePullPolicy": "Never"}
        for left_out in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
            container.pop(left_out, None)
    # podman 4.3 repeats what is to run once before, if it always restarts; and it doesn't decode secrets.
    pod["restartPolicy"] = "OnFailure"
    mounted = {"name": "secrets", "hostPath": {"path": str(secrets), "type": "Directory"}}
    pod["volumes"] = [mounted if each["name"] == "secrets" else each for each in pod["volumes"]]
    for each in (deployment, settings):
        each["metadata"].pop("namespace")
    return [settings, deployment]


def requests_of(stack: Stack, service: str, key: str) -> float:
    """How many requests for the statistics a process has answered."""
    url = f"http://{service}:8080/metrics?part=service"
    lines = stack.ask("metrics", url, Authorization=f"Bearer {key}").splitlines()
    counts = [
        line for line in lines if line.startswith("pleiades_http_requests_total") and "/statistics" in line
    ]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def healthy(stack: Stack, service: str) -> dict[str, str] | None:
    state: dict[str, dict[str, str]] = stack.container(service)["State"]
    return state if state["Health"]["Status"] == "healthy" else None  # type: ignore[return-value]


def test_every_container_of_the_stack_is_confined(stack: Stack) -> None:
    for service in (
        "postgres",
        *AGENTS,
        "metrics",
        "server",
        "worker",
        "prometheus",
        "redis",
        "api",
        "node-1",
        "balancer",
    ):
        described = stack.container(service)
        limits = described["HostConfig"]
        assert limits["ReadonlyRootfs"], service
        assert "no-new-privileges" in limits["SecurityOpt"], service
        assert described["EffectiveCaps"] in ([], None), service
        assert min(limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) > 0, service
        assert described["Config"]["User"] not in {"", "root", "0"}, service


def test_a_deployment_runs_on_the_worker(stack: Stack) -> None:
    said = stack.execute("worker", "prefect", "deployment", "run", "hunter/default", "--watch")
    assert "finished successfully" in said
    lines = [json.loads(line) for line in stack.logs("worker").splitlines() if line.startswith("{")]
    assert "maia.hunter" in {line["logger"] for line in lines}


def test_the_pages_of_prefect_are_there(stack: Stack) -> None:
    assert "<!DOCTYPE html>" in stack.ask("server", "http://127.0.0.1:4200/")
    assert json.loads(stack.ask("server", "http://127.0.0.1:4200/ui-settings"))["api_url"] == "/api"


def test_prometheus_sees_every_agent(stack: Stack) -> None:
    query = "http://prometheus:9090/api/v1/query?query=sum+by+(agent)(pleiades_cycles_total)"

    def all_seen() -> bool:
        found = json.loads(stack.ask("metrics", query))["data"]["result"]
        return {entry["metric"]["agent"] for entry in found} == set(AGENTS)

    until("figures of all agents", all_seen)
    rules = json.loads(stack.ask("metrics", "http://prometheus:9090/api/v1/rules"))["data"]["groups"]
    assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}


def test_rate_limits_restart_the_agents_of_the_stack_and_are_counted(stack: Stack) -> None:
    stack.set_faults("429-minute:1")
    try:
        until("the tracker begins anew", lambda: stack.container("tracker")["RestartCount"])
        until(
            "it is counted",
            lambda: "pleiades_churns_total{" in stack.ask("metrics", "http://127.0.0.1:9464/metrics"),
        )
    finally:
        stack.set_faults()
    assert until("the tracker is well again", lambda: healthy(stack, "tracker"))


def test_agents_give_back_their_claims_when_they_are_stopped(stack: Stack) -> None:
    stack.compose("stop", "--timeout", "30", "hunter", "tracker", "worker")
    for service in ("hunter", "tracker"):
        assert stack.container(service)["State"]["ExitCode"] == 143, stack.logs(service)
    leased = json.loads(stack.execute("metrics", "maia", "status", "--json"))
    assert leased["queue"]["leased"] == 0
