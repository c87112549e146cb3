"""Tool usage: what each tool, source or key ring brings for its cost, in which context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final, Self

from maia.learning.detector import ObservationDetector
from maia.learning.detectors.attributes import Attributes, conditions_of, plain
from maia.learning.detectors.grouping import METHOD_FIELDS, goal_of, method_of
from maia.learning.detectors.significance import Screen, fisher_greater
from maia.learning.detectors.tallies import Tallies, frozen
from maia.learning.detectors.wording import about as figure
from maia.learning.detectors.wording import coarse, in_words, who
from maia.learning.observations import CYCLE, Observation
from maia.learning.patterns import Condition, Finding, Operator, Pattern, PatternType
from maia.learning.states import pack, unpack

Task = tuple[str, str, str]
"""Agent, what is to be done, and the field that tells the tools apart (`action` if no other does)."""
Place = tuple[Task, str]
"""A task, and the attribute of the context that it is done in; an empty text for any context."""
Key = tuple[Place, str]
"""A place and a tool."""

_ANYWHERE: Final = ""
_MOST_VALUES: Final = 16
_MOST_FIELDS: Final = 200
_IGNORED: Final = (*METHOD_FIELDS, "goal", "error")


class ToolUsage(ObservationDetector):
    """Counts uses with and without reward, and the reward per cost, of each tool for a task that has several.

    Tools are what the context names as arm, ring or source; without one, the agent's actions for a goal.
    Contexts are single fields with few values. One is only reported if some tool does differently in it.
    """

    name: ClassVar[str] = "tool_usage"
    types: ClassVar[frozenset[PatternType]] = frozenset({PatternType.TOOL_USAGE})

    def __init__(self, capacity: int = 10_000, least_support: int = 20, agents: int = 1000) -> None:
        self._tallies: Tallies[Key] = Tallies(capacity)
        self._screen: Screen[Key] = Screen(least_support)
        self._agents = agents
        self._values: dict[str, dict[str, dict[str, None] | None]] = {}
        """By agent and field: the attributes met so far; None for a field that has too many of them."""
        self._known = Attributes()
        self._places: dict[Place, None] = {}
        self._gained: dict[Key, None] = {}
        self._tools: Counter[Task] = Counter()
        """How many tools are known for each task."""
        self._rewarded: dict[Task, None] = {}
        """Tasks for which there was a reward once; of others, nothing is known."""

    def observe(self, batch: Sequence[Observation]) -> None:
        uses: dict[tuple[Task, str, int], dict[str, list[float]]] = {}
        last_seen: dict[int, datetime] = {}
        for each in batch:
            if each.action == CYCLE:
                continue
            task, tool = _task_and_tool(each)
            day = each.at.toordinal()
            last_seen[day] = each.at
            cells = uses.get((task, tool, day))
            if cells is None:
                cells = uses[task, tool, day] = {}
            column = 0 if each.reward > 0 else 1
            gain = each.reward / (each.cost or 1.0)
            for attribute in self._attributes(each):
                cell = cells.get(attribute)
                if cell is None:
                    cell = cells[attribute] = [0, 0, 0.0]
                cell[column] += 1
                cell[2] += gain
        for (task, tool, day), cells in uses.items():
            for attribute, (pos, neg, gain) in cells.items():
                key = ((task, attribute), tool)
                if attribute == _ANYWHERE and key not in self._tallies:
                    self._tools[task] += 1
                self._tallies.add(key, day, int(pos), int(neg), last_seen[day], gain)
                self._gained[key] = None
                if pos:
                    self._rewarded[task] = None
        self._trim()

    def _attributes(self, each: Observation) -> list[str]:
        """The attributes of fields with few values so far, after the one that always holds."""
        fields = self._values.get(each.agent)
        if fields is None:
            fields = self._values[each.agent] = dict.fromkeys(_IGNORED)
        found = [_ANYWHERE]
        for name, value in each.context.items():
            values = fields.get(name)
            if values is None:
                if name in fields or len(fields) >= _MOST_FIELDS:
                    continue
                values = fields[name] = {}
            attribute = self._known.one(name, value)
            if attribute is None:
                continue
            text = attribute[0]
            if text not in values:
                if len(values) >= _MOST_VALUES:
                    fields[name] = None
                    continue
                values[text] = None
            found.append(text)
        return found

    def _trim(self) -> None:
        evicted = self._tallies.trim()
        self._screen.forget(evicted)
        for key in evicted:
            self._gained.pop(key, None)
        if evicted:
            self._tools = _tools_of(self._tallies)
            left = {key[0] for key, _ in self._tallies.items()}
            self._places = {place: None for place in self._places if place in left}
            tasks = {task for task, _ in left}
            self._rewarded = {task: None for task in self._rewarded if task in tasks}
        while len(self._values) > self._agents:
            del self._values[next(iter(self._values))]

    def patterns(self) -> list[Finding]:
        for key in self._gained:
            self._test(key)
        told = {place: None for place, _ in self._screen.settle() if place not in self._places}
        ready = [key for key in self._gained if key[0][1] == _ANYWHERE or key[0] in self._places]
        if told:
            # From now on, all tools are told of there: they are compared with each other.
            ready += [key for key, _ in self._tallies.items() if key[0] in told]
            self._places |= told
        self._gained.clear()
        enough = [
            key
            for key in ready
            if key[0][0] in self._rewarded
            and self._tools[key[0][0]] > 1
            and self._support(key) >= self._screen.least_support
        ]
        return [Finding(self._pattern(key), days) for key, days in self._tallies.take(enough).items()]

    def _support(self, key: Key) -> float:
        tally = self._tallies.get(key)
        return tally.support if tally else 0

    def _test(self, key: Key) -> None:
        """Whether a tool does differently, better or worse, in this context than in others."""
        (task, attribute), tool = key
        here, all_ = self._tallies.get(key), self._tallies.get(((task, _ANYWHERE), tool))
        if attribute == _ANYWHERE or key[0] in self._places or here is None or all_ is None:
            return
        if self._screen.due(key, here.support):
            pos, neg = max(0, all_.pos - here.pos), max(0, all_.neg - here.neg)
            better = fisher_greater(here.pos, here.neg, pos, neg)
            worse = fisher_greater(here.neg, here.pos, neg, pos)
            self._screen.look(key, here.support, min(1.0, 2 * min(better, worse)))

    def _pattern(self, key: Key) -> Pattern:
        ((agent, task, field), attribute), tool = key
        tally = self._tallies.get(key)
        assert tally is not None
        conditions = conditions_of((attribute,) if attribute else ())
        mean = tally.reward / tally.support
        to = f" for {task}" if task and task != tool else ""
        where = f" {in_words(conditions)}" if conditions else ""
        about = [Condition("agent", Operator.EQUALS, agent)]
        if task:
            about.append(Condition("goal" if field == "action" else "action", Operator.EQUALS, task))
        return Pattern(
            PatternType.TOOL_USAGE,
            {
                "agent": agent, "task": task or None, "field": field, "tool": tool,
                "conditions": plain(conditions),
            },
            f"{tool}{to} brings {who(agent)} {figure(mean)} per unit of cost{where}",
            (*about, *conditions),
            action=tool,
            data={"reward_per_cost": coarse(mean), "rewarded_share": coarse(tally.pos / tally.support)},
        )  # fmt: skip

    def state(self) -> bytes:
        values = [
            [agent, [[name, None if known is None else list(known)] for name, known in fields.items()]]
            for agent, fields in self._values.items()
        ]
        content = [
            self._tallies.content(), self._screen.content(), self._agents, values, list(self._places),
            list(self._gained), list(self._rewarded),
        ]  # fmt: skip
        return pack(self.name, self.version, content)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        tallies, screen, agents, values, places, gained, rewarded = unpack(cls.name, cls.version, state)
        made = cls(agents=agents)
        made._tallies = Tallies.from_content(tallies)
        made._tools = _tools_of(made._tallies)
        made._screen = Screen.from_content(screen)
        made._values = {
            agent: {name: None if known is None else dict.fromkeys(known) for name, known in fields}
            for agent, fields in values
        }
        made._places = {frozen(place): None for place in places}
        made._gained = {frozen(key): None for key in gained}
        made._rewarded = {frozen(task): None for task in rewarded}
        return made


def _tools_of(tallies: Tallies[Key]) -> Counter[Task]:
    return Counter(task for (task, attribute), _ in tallies if attribute == _ANYWHERE)


def _task_and_tool(each: Observation) -> tuple[Task, str]:
    method = method_of(each)
    if method is None:
        return (each.agent, goal_of(each) or "", "action"), each.action
    return (each.agent, each.action, method[0]), method[1]
