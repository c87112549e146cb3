"""The limits of containers, read from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from maia.maintenance.containers import ContainerUse, container_use, is_container

MIB = 2**20


def write(root: Path, **files: str) -> Path:
    """Files under a root; `__` in a name separates folders, and `_dot_` is a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group_2(root: Path, path: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    write(tmp_path, proc__self__cgroup="0::/\n", sys__fs__cgroup__cgroup_dot_controllers="cpu memory\n")
    return tmp_path


def test_version_2_tells_limits_and_leaves_out_what_is_cached(version_2: Path) -> None:
    group_2(
        version_2, ".", memory_max=f"{512 * MIB}\n", memory_current=f"{300 * MIB}\n",
        memory_stat=f"anon 1\ninactive_file {100 * MIB}\nactive_file 7\n", cpu_max="150000 100000\n",
        cpu_stat="usage_usec 2500000\nuser_usec 1\n",
    )  # fmt: skip
    assert container_use(version_2) == ContainerUse(
        memory_limit_bytes=512 * MIB, memory_used_bytes=200 * MIB, cpus=1.5, cpu_s=2.5
    )


def test_version_2_without_limits_tells_nothing(version_2: Path) -> None:
    group_2(
        version_2, ".", memory_max="max\n", memory_current="5\n", cpu_max="max 100000\n",
        cpu_stat="usage_usec 2500000\n",
    )  # fmt: skip
    assert container_use(version_2) == ContainerUse()


def test_the_tightest_of_nested_limits_counts_with_what_its_own_group_uses(version_2: Path) -> None:
    write(version_2, proc__self__cgroup="0::/pod/app\n")
    group_2(
        version_2, "pod", memory_max=f"{100 * MIB}", memory_current=f"{90 * MIB}", memory_stat="",
        cpu_max="50000 100000",
    )  # fmt: skip
    group_2(
        version_2, "pod/app", memory_max=f"{400 * MIB}", memory_current=f"{20 * MIB}", memory_stat="",
        cpu_max="max 100000", cpu_stat="usage_usec 1000000",
    )  # fmt: skip
    assert container_use(version_2) == ContainerUse(
        memory_limit_bytes=100 * MIB, memory_used_bytes=90 * MIB, cpus=0.5, cpu_s=1.0
    )


def test_a_path_of_the_host_that_is_not_mounted_means_the_root(version_2: Path) -> None:
    write(version_2, proc__self__cgroup="0::/../../kubepods/pod1\n")
    group_2(version_2, ".", memory_max=f"{64 * MIB}", memory_current="4096", memory_stat="inactive_file 9999")
    assert container_use(version_2) == ContainerUse(memory_limit_bytes=64 * MIB, memory_used_bytes=0)


@pytest.mark.parametrize("path", ["/docker/abc", "/not/mounted/here"])
def test_version_1_tells_the_same(tmp_path: Path, path: str) -> None:
    write(tmp_path, proc__self__cgroup=f"9:name=systemd:/\n4:memory:{path}\n2:cpu,cpuacct:{path}\n")
    inside = path.lstrip("/") if "docker" in path else "."
    mounted = tmp_path / "sys/fs/cgroup"
    for controller, files in {
        "memory": {
            "memory.limit_in_bytes": f"{256 * MIB}\n",
            "memory.usage_in_bytes": f"{130 * MIB}\n",
            "memory.stat": f"cache 1\ntotal_inactive_file {30 * MIB}\n",
        },
        "cpu": {"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"},
        "cpuacct": {"cpuacct.usage": "7500000000\n"},
    }.items():
        folder = mounted / controller / inside
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    assert container_use(tmp_path) == ContainerUse(
        memory_limit_bytes=256 * MIB, memory_used_bytes=100 * MIB, cpus=2.0, cpu_s=7.5
    )


def test_version_1_writes_no_limit_as_large_numbers(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__self__cgroup="4:memory:/\n2:cpu,cpuacct:/\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712\n",
        sys__fs__cgroup__memory__memory_dot_usage_in_bytes="5\n",
        sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="-1\n",
        sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000\n",
    )
    assert container_use(tmp_path) == ContainerUse()


@pytest.mark.parametrize("text", ["", "lots\n", "-1\n", "12 monkeys\n"])
def test_what_cannot_be_read_is_no_limit(version_2: Path, text: str) -> None:
    group_2(version_2, ".", memory_max=text, cpu_max=text)
    assert container_use(version_2).cpus is None
    assert container_use(version_2 / "nowhere") == ContainerUse()


def test_containers_are_known_by_their_marks(tmp_path: Path) -> None:
    assert not is_container({}, tmp_path)
    assert is_container({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    assert is_container({"container": "podman"}, tmp_path)
    write(tmp_path, proc__self__cgroup="0::/user.slice/session-1.scope\n")
    assert not is_container({}, tmp_path)
    write(tmp_path, proc__self__cgroup="1:cpu:/kubepods/besteffort/pod1\n")
    assert is_container({}, tmp_path)
    marked = write(tmp_path / "marked", _dot_dockerenv="")
    assert is_container({}, marked)
