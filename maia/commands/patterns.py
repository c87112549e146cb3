"""`maia patterns`: lists, explains, matches, pins and forgets what the learner has learnt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from atlas.wording import counted
from maia.commands import copying
from maia.commands.arguments import parse_context
from maia.commands.tables import Column, print_table
from maia.commands.terminal import AsJson, as_text, console, print_json, print_text, with_atlas
from maia.learning.patterns import PatternType

if TYPE_CHECKING:
    from atlas.adapters.patterns import PatternsDAO
    from atlas.composition import Atlas
    from maia.learner.sequences import NextSteps
    from maia.learning.importance import Use
    from maia.learning.observations import Scalar
    from maia.views.patterns import Advice, BelievedPattern, Matches, PatternDetails

_ABOUT: Final = """List, explain, match, copy, pin and forget what the learner has learnt.

A pattern is a statement with evidence: how often it proved true and how often not. Its confidence is the
lower bound of the 90 % interval of the chance that it does, so it can't be high on little evidence.
`maia learner` learns; docs/learning.md explains each type.
"""

app = typer.Typer(rich_markup_mode="markdown", add_completion=False, no_args_is_help=True, help=_ABOUT)

_SHORT_ID: Final = 8
_BAR: Final = 20

Types = Annotated[
    list[PatternType] | None,
    typer.Option("--type", "-t", help="Only patterns of this type; may be repeated.", show_default=False),
]
MinConfidence = Annotated[
    float, typer.Option("--min-confidence", min=0, max=1, help="Only patterns of at least this confidence.")
]
Ids = Annotated[
    list[str], typer.Argument(metavar="ID…", help="Ids, or their first characters if nothing else has them.")
]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FIELD=VALUE…",
        help="The context: what is so now, such as agent=hunter hour=3. Values are numbers, true, false, "
        "null or text; a number in quotes is text.",
        show_default=False,
    ),
]
Context = Annotated[
    str | None,
    typer.Option("--context", metavar="JSON", help="The context as a JSON object.", show_default=False),
]


@app.command("list")
def list_patterns(
    types: Types = None,
    min_confidence: MinConfidence = 0.0,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many to show at most.")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """List patterns, the most firmly believed first.

    For example:

    - `maia patterns list --type failure_mode --min-confidence 0.7`
    - `maia patterns list --json | jq -r '.patterns[].statement'`
    """

    async def look(atlas: Atlas) -> list[BelievedPattern]:
        from maia.views.patterns import patterns

        return await patterns(atlas, types, min_confidence)

    found = with_atlas(look)
    if as_json:
        from maia.views.words import plain

        print_json({"total": len(found), "patterns": [plain(each) for each in found[:limit]]})
        return
    if not found:
        wanted = " of this kind" if types or min_confidence else ""
        print_text(f"No pattern{wanted} is known yet: the learner finds them as it runs (maia learner).")
        return
    print_table(
        (
            "id", "confidence", Column("support", rank=2), Column("type", rank=3),
            Column("statement", 30, wraps=True), Column("last seen", rank=4),
        ),
        [
            (
                each.id[:_SHORT_ID], f"{each.confidence:.2f}", each.support, each.type.value, _marked(each),
                each.last_seen,
            )
            for each in found[:limit]
        ],
    )  # fmt: skip
    if len(found) > limit:
        print_text(
            f"{limit:,} of {len(found):,} patterns; -n shows more. maia patterns show ID explains one."
        )
    else:
        print_text("maia patterns show ID explains one.")


@app.command()
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the first characters of it.")],
    as_json: AsJson = False,
) -> None:
    """Explain a pattern: its conditions, its evidence by day, and how the confidence came about."""

    async def look(atlas: Atlas) -> PatternDetails:
        from maia.views.patterns import pattern

        [whole] = await _resolved(_dao(atlas), [id_])
        found = await pattern(atlas, whole)
        if found is None:
            raise typer.BadParameter(f"the pattern {whole} was forgotten just now")
        return found

    details = with_atlas(look)
    if as_json:
        from maia.views.words import plain

        print_json(plain(details))
    else:
        _print_details(details)


@app.command()
def match(
    fields: Fields = None,
    context: Context = None,
    min_confidence: MinConfidence = 0.0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="Most to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the patterns that hold in a context, with the conditions it meets and misses.

    They are ranked by the share of conditions met × confidence × recency. For example:

    - `maia patterns match agent=hunter hour=3`
    - `maia patterns match --context '{"agent": "tracker", "night": true}' --json`
    """
    given = parse_context(fields or (), context)

    async def look(atlas: Atlas) -> Matches:
        from maia.learning.importance import Use
        from maia.views.patterns import matches

        found = await matches(atlas, await _without_personal_data(atlas, given), limit, min_confidence)
        await _pay(atlas, [each.id for each in found.patterns], Use.MATCHED)
        return found

    found = with_atlas(look)
    if as_json:
        from maia.views.words import plain

        print_json(plain(found))
    elif found.patterns:
        print_table(
            (
                "id", "score", Column("confidence", rank=2), Column("support", rank=3),
                Column("statement", 24, wraps=True), Column("met", 12, wraps=True),
                Column("missed", 12, wraps=True, rank=1),
            ),
            [
                (
                    each.id[:_SHORT_ID], f"{each.score:.2f}", f"{each.confidence:.2f}", each.support,
                    each.statement, ", ".join(each.met), ", ".join(each.missed) or None,
                )
                for each in found.patterns
            ],
        )  # fmt: skip
        print_text("maia patterns show ID explains one.")
    else:
        print_text(found.reason or "")


@app.command()
def recommend(
    fields: Fields = None,
    context: Context = None,
    explore: Annotated[
        bool,
        typer.Option("--explore", help="Rank by a draw from what may be true, to try what is uncertain."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Makes the draws of --explore repeatable.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="Most to show.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Recommend actions in a context: those with the highest expected reward per cost, and why.

    Only patterns all of whose conditions are met advise, and only those that are believed firmly enough
    (PLEIADES_LEARNER__CONFIDENCE_THRESHOLD). For example:

    - `maia patterns recommend agent=hunter hour=3`
    - `maia patterns recommend agent=hunter --explore --seed 7`
    """
    if seed is not None and not explore:
        raise typer.BadParameter("--seed only applies to --explore")
    given = parse_context(fields or (), context)

    async def look(atlas: Atlas) -> Advice:
        from secrets import randbits

        from maia.learning.importance import Use
        from maia.views.patterns import advice

        known = await _without_personal_data(atlas, given)
        found = await advice(
            atlas, known, limit, explore=explore, seed=randbits(32) if seed is None else seed
        )
        because = {each.id for action in found.actions for each in action.because}
        await _pay(atlas, sorted(because), Use.RECOMMENDED)
        return found

    found = with_atlas(look)
    if as_json:
        from maia.views.words import plain

        print_json(plain(found))
    elif found.actions:
        _print_advice(found)
    else:
        print_text(found.reason or "")


@app.command("next")
def next_(
    actions: Annotated[
        list[str],
        typer.Argument(
            metavar="ACTION…", help="What was done, the last one last; no more than the last five count."
        ),
    ],
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            metavar="NAME",
            help="Whose actions these are. [default: who did the last one most often]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict what probably comes next after some actions, wherever in a session they are.

    This is learnt from the logs of `maia learn --from`, and from what you do: the agent is then `operator`.
    In JSON, an action that is null is the end of the session. For example:

    - `maia patterns next "Take in charge ticket" Wait`
    - `maia patterns next seed --agent operator --json`
    """

    async def look(atlas: Atlas) -> NextSteps:
        from maia.learner.cycle import pseudonyms_of
        from maia.learner.sequences import next_steps

        named = (await pseudonyms_of(atlas)).text
        return await next_steps(_dao(atlas), [named(each) for each in actions], agent and named(agent))

    found = with_atlas(look)
    if as_json:
        print_json(found)
    elif found.reason:
        print_text(found.reason)
    else:
        _print_next(found)


@app.command()
def pin(ids: Ids, as_json: AsJson = False) -> None:
    """Keep patterns, however unimportant they become."""
    _change(ids, lambda dao, whole: dao.pin(whole), "pinned", as_json=as_json)


@app.command()
def unpin(ids: Ids, as_json: AsJson = False) -> None:
    """Let pinned patterns be forgotten again when they become unimportant."""
    _change(ids, lambda dao, whole: dao.pin(whole, pinned=False), "unpinned", as_json=as_json)


@app.command()
def forget(ids: Ids, as_json: AsJson = False) -> None:
    """Delete patterns with their evidence; they stay forgotten, whatever is seen, until `remember`."""
    _change(ids, lambda dao, whole: dao.forget(whole, "operator"), "forgotten", as_json=as_json)


@app.command()
def remember(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID…", help="Ids of patterns that you forgot, or their beginnings.")
    ],
    as_json: AsJson = False,
) -> None:
    """Let new evidence bring back patterns that you forgot."""
    _change(
        ids, lambda dao, whole: dao.remember(whole), "may be learnt again", forgotten=True, as_json=as_json
    )


app.command("export")(copying.export)
app.command("import")(copying.import_)
app.command("snapshot")(copying.snapshot)
app.command("snapshots")(copying.snapshots)
app.command("restore")(copying.restore)


def _change(
    ids: Sequence[str],
    change: Callable[[PatternsDAO, list[str]], Awaitable[int]],
    done: str,
    *,
    forgotten: bool = False,
    as_json: bool,
) -> None:
    async def work(atlas: Atlas) -> int:
        dao = _dao(atlas)
        return await change(dao, await _resolved(dao, ids, forgotten=forgotten))

    _print_count(with_atlas(work), done, as_json=as_json)


def _print_count(count: int, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"patterns": count})
    else:
        print_text(f"{counted(count, 'pattern')} {done}")


async def _without_personal_data(atlas: Atlas, context: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The context with the pseudonyms that patterns have, too."""
    from maia.learner.cycle import pseudonyms_of

    return dict((await pseudonyms_of(atlas)).context(context))


async def _pay(atlas: Atlas, ids: Sequence[str], use: Use) -> None:
    from maia.learner.housekeeping import pay

    await pay(_dao(atlas), ids, use, atlas.clock.now())


async def _resolved(dao: PatternsDAO, prefixes: Sequence[str], *, forgotten: bool = False) -> list[str]:
    """The whole ids that begin so, of what is known or was forgotten by an operator.

    BadParameter if there is none, or more than one.
    """
    whole = []
    for prefix in prefixes:
        found = await dao.beginning_with(prefix.strip().lower(), forgotten=forgotten)
        if not found and forgotten:
            raise typer.BadParameter(f"you forgot no pattern whose id begins with {prefix!r}")
        if not found:
            raise typer.BadParameter(f"no pattern's id begins with {prefix!r}: maia patterns list shows them")
        if len(found) > 1:
            some = ", ".join(found[:3])
            raise typer.BadParameter(f"the ids of {len(found)} patterns begin with {prefix!r}: {some} …")
        whole += found
    return whole


def _dao(atlas: Atlas) -> PatternsDAO:
    from atlas.adapters.patterns import PatternsDAO

    return PatternsDAO(atlas.db, clock=atlas.clock, settings=atlas.settings)


def _marked(each: BelievedPattern) -> str:
    return f"{each.statement} (pinned)" if each.pinned else each.statement


def _print_advice(found: Advice) -> None:
    explored = any(each.drawn is not None for each in found.actions)
    print_table(
        (
            Column("action", 10, wraps=True), "reward per cost", "80 % interval",
            *(("drawn",) if explored else ()), Column("confidence", rank=1),
            Column("evidence", 9, wraps=True),
            Column("why", 24, wraps=True),
        ),
        [
            (
                each.action, f"{each.reward:.3g}", "{:.3g} to {:.3g}".format(*each.interval_80),
                *((f"{each.drawn:.3g}",) if each.drawn is not None else ()),
                f"{each.confidence:.2f}", f"{each.pos:,} for, {each.neg:,} against", each.why,
            )
            for each in found.actions
        ],
    )  # fmt: skip


def _print_next(found: NextSteps) -> None:
    print_table(
        (Column("next action", 24, wraps=True), "probability", ""),
        [
            (
                "(the session ends)" if each.action is None else each.action,
                f"{each.probability:.1%}", "█" * round(each.probability * _BAR),
            )
            for each in found.next
        ],
    )  # fmt: skip
    print_text(f"Learnt from {counted(found.observations, 'action')} of the agent {found.agent}.")
    if found.never_seen:
        print_text(f"It was never seen to do {', '.join(map(repr, found.never_seen))}.")


def _print_details(details: PatternDetails) -> None:
    from rich.table import Table
    from rich.text import Text

    believed = details.pattern
    out = console()
    out.print(Text(_marked(believed), style="bold"))
    grid = Table.grid(padding=(0, 2))
    for name, value in _facts(believed):
        grid.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    out.print(grid)
    out.print()
    if details.evidence:
        print_table(
            (
                "day", Column("site", rank=2), "for", "against", Column("reward", rank=1),
                "confidence after it", "",
            ),
            [
                (
                    row.day.isoformat(), row.node, row.pos, row.neg, round(row.reward, 2),
                    f"{row.confidence:.2f}", "█" * round(row.confidence * _BAR),
                )
                for row in details.evidence
            ],
            title="Evidence by day",
        )  # fmt: skip


def _facts(believed: BelievedPattern) -> list[tuple[str, str]]:
    low, high = f"{believed.confidence:.2f}", f"{believed.high:.2f}"
    evidence = f"{believed.pos:,} for, {believed.neg:,} against"
    reward = believed.reward / believed.support if believed.support else 0.0
    facts: list[tuple[str, Any]] = [
        ("id", believed.id),
        ("type", believed.type.value),
        ("when", " and ".join(believed.conditions) or "always"),
        ("advises", believed.action),
        ("confidence", f"{low}, the lower bound of [{low}, {high}]"),
        ("evidence", f"{evidence}, on {counted(believed.days, 'day')} at {_at_sites(believed)}"),
        ("reward", f"{reward:.3g} on average" if reward else None),
        ("last seen", as_text(believed.last_seen) if believed.last_seen else None),
        ("known since", as_text(believed.created_at)),
        *((name.replace("_", " "), _figure(value)) for name, value in sorted(believed.data.items())),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _at_sites(believed: BelievedPattern) -> str:
    if believed.of_sites == 1:
        return counted(believed.sites, "site")
    return f"{believed.sites} of {believed.of_sites} sites"


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_figure, value))
    return str(value)
