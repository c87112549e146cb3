"""`maia graph` as people use it: what it prints, and with which exit status."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from atlas.adapters.claims import Claim, Claims
from atlas.adapters.federation import FederationDAO
from atlas.adapters.graph import (
    AtomType,
    Attention,
    Evidence,
    GraphDAO,
    Link,
    Node,
    Sources,
    Value,
    node_handle,
)
from atlas.composition import Atlas
from atlas.testing import SettingsFactory
from maia.graphing import deriving, feeding
from tests.growth import store_video

pytestmark = pytest.mark.integration


@pytest.fixture
def maia(run_maia: Any) -> Any:
    """Runs `maia graph`; what it prints must fit in 80 columns."""
    narrow = partial(run_maia, "graph")

    def run(*arguments: str, status: int = 0) -> str:
        found, out, err = narrow(*arguments)
        assert found == status, err
        return out if status == 0 else err + out

    return run


@pytest.fixture
def stored(settings_factory: SettingsFactory) -> None:
    async def store() -> None:
        async with Atlas.open(settings_factory()) as atlas:
            dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
            music, jazz = Node("tag", "music"), Node("tag", "jazz")
            videos = [Node("video", f"v{nth}") for nth in range(4)]
            links = [Link("tagged", (video, music), Evidence(1)) for video in videos]
            links += [Link("tagged", (video, jazz), Evidence(1)) for video in videos[:2]]
            links += [Link("uploaded_by", (videos[0], Node("channel", "one")), Evidence(1))]
            links += [Link("co_occurs", (music, jazz), Evidence(2, 1), 1.5)]
            await dao.add(links, Sources.FACTS)
            await dao.set_values([Value(node_handle("tag", "jazz"), "shown", texts=["Jazz"])])
            await dao.attend({node_handle("tag", "jazz"): Attention(7, 2)}, atlas.clock.now())

    asyncio.run(store())


@pytest.mark.usefixtures("stored")
def test_looking(maia: Any) -> None:
    told = maia("get", "tag:Jazz")
    assert "tag:jazz (Jazz)" in told
    assert "in tagged     2 links" in told
    assert json.loads(maia("get", "tag:jazz", "--json"))["atoms"][0]["values"] == {"shown": ["Jazz"]}
    told = maia("get", "tag:jazz", "tag:none", status=1)
    assert "there is no atom tag:none: maia" in told
    assert "in tagged     2 links" in told
    assert json.loads(maia("get", "tag:none", "--json", status=1)) == {"atoms": [], "missing": ["tag:none"]}
    assert maia("find", "v").count("video:v") == 4
    page = maia("find", "video:", "-n", "2")
    assert "--after video:v1 goes on here" in page
    assert "video:v2" in maia("find", "video:", "--after", "video:v1")
    assert "There is no such node." in maia("find", "zzz")
    assert "tag:jazz" in maia("find", " JAZ")
    assert "nosuch is no type of nodes; there are agent" in " ".join(
        maia("find", "nosuch:", status=1).split()
    )
    assert "co_occurs(" in maia("incoming", "tag:jazz", "--type", "co_occurs")
    assert "No link of the type follows has" in maia("incoming", "tag:jazz", "--type", "follows")
    near = maia("neighbours", "video:v0", "--hops", "2")
    assert near.index("Linked with video:v0") < near.index("channel:one") < near.index("Two links away")
    assert "v1" in near[near.index("Two links away") :]
    assert "Nothing else is two links away." in maia(
        "neighbours", "channel:one", "--hops", "2", "-t", "uploaded_by"
    )
    way = maia("path", "channel:one", "video:v3", "--type", "uploaded_by", "--type", "tagged")
    assert way.index("channel:one") < way.index("video:v0") < way.index("tag:music") < way.index("3 links; ")
    assert "There is no path of at most 1 link." in maia("path", "channel:one", "tag:jazz", "--most", "1")
    assert "over shared neighbours" in maia("similar", "video:v0")
    stats = maia("stats")
    assert "7 nodes and 8 links, " in stats
    assert "1 atom with attention" in stats
    assert json.loads(maia("stats", "--json"))["most_attended"][0]["atom"] == "tag:jazz"
    assert "there is no space mars; there is own, this site's graph, and no mirror" in maia(
        "stats", "--space", "mars", status=1
    )


@pytest.mark.usefixtures("stored")
def test_queries(maia: Any) -> None:
    told = maia("query", "tagged(?v, tag:music), tagged(?v, ?t), ?t != tag:music", "--show", "t", "--tally")
    assert "tag:jazz (Jazz)" in told
    assert maia("query", "tagged(?v, ?t)", "--count").strip() == "6 matches"
    assert maia("query", "tagged(?v, ?t)", "-s", "v", "--count", "--distinct").strip() == "4 matches"
    first = maia("query", "tagged(?v, tag:music)", "-o", "?v.name desc", "-n", "1")
    assert "video:v3" in first
    assert "There are more matches" in first
    assert "Nothing matches: there is no tag:musik." in maia("query", "tagged(?v, tag:musik)")
    assert "Nothing matches." in maia("query", "tagged(?v, tag:music), follows(?v, ?x)")
    assert "It would cost" in maia("query", "tagged(?v, tag:music)", "--explain")
    ordered = maia("query", "?l = tagged(?v, tag:music)", "--order", "?l.count")
    assert "?l.count" in ordered.splitlines()[0]
    assert (
        json.loads(maia("query", "uploaded_by(?v, ?c)", "--json"))["rows"][0]["atoms"][1]["atom"]
        == "channel:one"
    )
    assert "tagged(?v tag:x)" in maia("query", "tagged(?v tag:x)", status=2)
    assert "leave out --distinct" in maia("query", "tagged(?v, ?t)", "--tally", "--count", status=2)
    assert "is allowed" in maia("query", "tagged(?v, ?t)", "--max-cost", "1", status=1)
    error = json.loads(maia("query", "tagged(", "--json", status=2).splitlines()[-1])
    assert error["exit_status"] == 2


@pytest.mark.usefixtures("stored")
def test_changes_and_files(maia: Any, tmp_path: Path) -> None:
    added = maia("add", "related_to(concept:study music, tag:jazz)", "--for", "3", "--weight", "2")
    assert added.strip() == "2 atoms added, 1 changed"
    assert "strength 1.00" in maia("get", "related_to(concept:study music, tag:jazz)")
    assert "only links have a weight" in maia("add", "concept:x", "--weight", "1", status=1)
    path = tmp_path / "part.jsonl"
    assert "wrote 2 nodes and 1 link" in maia("export", str(path), "--type", "related_to")
    assert maia("remove", "concept:study music").strip() == "2 atoms removed, links included"
    assert "Nothing is gone" in maia("remove", "concept:study music")
    assert maia("import", str(path)).strip() == "3 atoms read: 0 new, 2 changed"
    whole = tmp_path / "graph.graphml"
    assert json.loads(maia("export", str(whole), "--json"))["nodes"] == 8
    assert json.loads(maia("import", str(whole), "--json")) == {"atoms": 17, "added": 0, "changed": 14}
    maia("export", str(tmp_path / "g.parquet"), "--around", "tag:jazz", "--hops", "2")
    assert {each.name for each in tmp_path.glob("g-*")} == {"g-nodes.parquet", "g-links.parquet"}
    path.write_text('{"type": "tag", "name": "x"}\n{"type": "planet", "name": "x"}\n')
    assert "line 2: planet is no type of nodes" in maia("import", str(path), status=1)
    assert "there is no file" in maia("import", str(tmp_path / "none.jsonl"), status=2)
    # As deep as may be, and one more.
    deep = "related_to(" * 9 + "tag:x" + ")" * 9
    path.write_text(json.dumps({"type": "related_to", "outgoing": [deep]}))
    assert maia("import", str(path)).strip() == "1 atom read: 11 new, 0 changed"
    path.write_text(json.dumps({"type": "related_to", "outgoing": [f"related_to({deep})"]}))
    assert "line 1: links are nested more than 10 deep" in maia("import", str(path), status=1)
    handle = json.loads(maia("get", f"related_to({deep})", "--json"))["atoms"][0]["handle"]
    assert "nested more than 10 deep" in " ".join(maia("add", f"related_to({handle})", status=1).split())
    maia("export", str(path))
    assert ", 0 changed" in maia("import", str(path))
    assert ".graphml" in maia("export", str(tmp_path / "graph.txt"), status=2)
    assert "takes lines of JSON or GraphML" in maia("export", "-", "--format", "parquet", status=2)


@pytest.fixture
def groups(settings_factory: SettingsFactory) -> None:
    """Two groups of videos, each with tags and a channel of its own."""

    async def store() -> None:
        async with Atlas.open(settings_factory()) as atlas:
            dao = GraphDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
            for nth in range(12):
                video, group = Node("video", f"v{nth}"), nth % 2
                tags = ["lo fi", "study"] if group else ["heavy metal", "guitar"]
                links = [Link("tagged", (video, Node("tag", tag)), Evidence(1)) for tag in tags]
                links += [Link("uploaded_by", (video, Node("channel", f"UC-{group}")))]
                links += [Link("found_by", (video, Node("agent", "hunter")))]
                await dao.add(links, Sources.FACTS)

    asyncio.run(store())


def test_nothing_is_no_community(maia: Any) -> None:
    assert "It is empty" in maia("stats")
    assert "There is nothing that links of these types would group." in maia("communities")


@pytest.mark.usefixtures("groups")
def test_communities_are_those_of_the_tags(maia: Any) -> None:
    found = json.loads(maia("communities", "--json"))
    assert found["total"] == 2
    tags = [{each["atom"] for each in one["tags"]} for one in found["communities"]]
    assert sorted(map(sorted, tags)) == [["tag:guitar", "tag:heavy metal"], ["tag:lo fi", "tag:study"]]
    assert found["communities"][0]["by_type"] == {"channel": 1, "tag": 2, "video": 6}
    shown = maia("communities", "--of", "tag:Lo Fi", "-n", "2")
    assert "lo fi" in shown
    assert "guitar" not in shown
    assert "2 communities in all" in shown
    assert "no atom tag:none" in maia("communities", "--of", "tag:none", status=1)


@pytest.fixture
def videos(database_url: str) -> None:
    async def store() -> None:
        sql = await asyncpg.connect(database_url)
        for nth in range(4):
            await store_video(sql, f"v{nth}", title=f"Song {nth}", tags=["lo fi", "study"])
        await sql.close()

    asyncio.run(store())


@pytest.mark.usefixtures("videos")
def test_update_feeds_the_graph_and_derives_links(maia: Any, settings_factory: SettingsFactory) -> None:
    def busy(*locks: str) -> tuple[str, dict[str, Any]]:
        """What is told, and as JSON, while somebody else has locks."""

        async def enter() -> None:
            atlas = await stack.enter_async_context(Atlas.open(settings_factory()))
            for lock in locks:
                await stack.enter_async_context(atlas.db.only_one(lock))

        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            runner.run(enter())
            told, found = maia("update", status=1), maia("update", "--json", status=1)
            runner.run(stack.aclose())
        return " ".join(told.split()), json.loads(found[found.index("{") :])

    told, found = busy(feeding.LOCK, deriving.LOCK)
    assert told.startswith("maia: another process reads what changed and derives links at the moment")
    assert (found["fed"]["is_alone"], found["derived"]["is_alone"]) == (False, False)
    told, found = busy(deriving.LOCK)
    assert "another process derives links" in told
    assert " read: " in told
    assert (found["fed"]["is_alone"], found["derived"]["is_alone"]) == (True, False)
    assert "derived link" in maia("update", "--rebuild")
    told = maia("update")
    assert " read: " in told
    assert "derived link" in told
    assert "video:v0 (Song 0)" in maia("get", "video:v0")
    assert "0 atoms added, 0 removed" in maia("update", "--no-derive")
    assert json.loads(maia("update", "--rebuild", "--json"))["fed"]["added"] == 0


@pytest.mark.usefixtures("stored")
def test_copies(maia: Any, tmp_path: Path) -> None:
    assert "There is no snapshot of the graph" in maia("snapshots")
    assert "with everything: 15 atoms" in maia("snapshot")
    assert maia("snapshots").count("everything") == 1
    assert json.loads(maia("snapshots", "--json"))["snapshots"][0]["at"].endswith("Z")
    maia("add", "concept:lost")
    maia("export", str(tmp_path / "export.jsonl"))
    told = maia("load", str(tmp_path / "export.jsonl"), "--yes", status=1)
    assert "maia graph import adds its atoms" in " ".join(told.split())
    files = [tmp_path / name for name in ("g.plgraph", "g.jsonl")]
    for file in files:
        assert json.loads(maia("save", str(file), "--json"))["atoms"] == 16
    assert "restored 15 atoms" in maia("restore", "--yes")
    assert "there is no atom concept:lost" in maia("get", "concept:lost", status=1)
    for file in files:
        maia("restore", "--yes")
        assert "loaded 16 atoms" in maia("load", str(file), "--yes")
        assert "concept:lost" in maia("get", "concept:lost")
        told = maia("import", str(file), "--format", "json", status=1)
        assert "which maia graph load puts in place" in " ".join(told.split())
    assert "save and load are for these" in " ".join(maia("import", str(files[0]), status=2).split())
    files[0].write_bytes(files[0].read_bytes()[:-7])
    assert "cannot be loaded" in maia("load", str(files[0]), "--yes", status=1)
    assert "concept:lost" in maia("get", "concept:lost")
    # In a folder the last ones are kept, and the last that is whole is loaded.
    folder = tmp_path / "kept"
    folder.mkdir()
    refused = maia("save", str(tmp_path / "x.plgraph"), "--with-json", status=2)
    assert "is for folders" in " ".join(refused.split())
    first, last = (json.loads(maia("save", str(folder), "--with-json", "--json"))["file"] for _ in range(2))
    assert {each.suffix for each in folder.iterdir()} == {".plgraph", ".jsonl"}
    Path(last).write_bytes(b"")
    assert json.loads(maia("load", str(folder), "--yes", "--json")) == {"file": first, "atoms": 16}
    assert "value shown" in maia("get", "tag:jazz")


@pytest.mark.usefixtures("stored")
def test_a_site_that_departed_is_forgotten(
    maia: Any, settings_factory: SettingsFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hear() -> None:
        async with Atlas.open(settings_factory()) as atlas:
            craze, now = node_handle("concept", "craze"), atlas.clock.now()
            said = Claim(craze, "gone-for-good.7", True, 0, 0, None, now, 1, "concept", "craze")
            concept = AtomType("concept", is_link=False, is_symmetric=False, what="anything")
            federation = FederationDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)
            async with federation.transaction() as dao:
                await dao.claims().merge(Claims([said], [concept]), "gone-for-good.7")

    asyncio.run(hear())
    assert "no other site 'nobody' says" in maia("forget-site", "nobody", "--dry-run", status=1)
    seen = {"site": "gone-for-good", "claims": 1, "alone": 1}
    assert json.loads(maia("forget-site", "gone", "--dry-run", "--json")) == seen | {"forgotten": False}
    assert "1 atom, 1 of which nobody else says" in " ".join(maia("forget-site", "gone", "--dry-run").split())
    assert "add --yes" in " ".join(maia("forget-site", "gone", "--json", status=2).split())
    monkeypatch.setattr("sys.stdin", StringIO("n\n"))
    maia("forget-site", "gone", status=1)
    assert "concept:craze" in maia("get", "concept:craze")
    assert json.loads(maia("forget-site", "gone", "--yes", "--json")) == seen | {"forgotten": True}
    assert "there is no atom concept:craze" in maia("get", "concept:craze", status=1)
