"""Chains of links: what is said of a link must hold in every chain that has it, and layouts must be tight."""

from __future__ import annotations

import random

import pytest

from export.chain import all_steps, inner_offset, lay_out, offsets_of, streams_from
from export.graph import Graph, OpKind
from export.links import Link, chain
from export.planner import plan
from export.timetable import Timetable
from export.verify_plan import verify_plan
from tests.export.graph_builder import GraphBuilder
from tinynas.lower import lower
from tinynas.space import load_space

SHAPE = (96, 96, 3)


def candidate(seed: int) -> Graph:
    space = load_space("mobilenet")
    return lower(space.sample(random.Random(seed), SHAPE), space, SHAPE, 10)


def links_of(graph: Graph) -> tuple[Link, ...]:
    links = chain(graph, "dsp")
    assert links is not None
    return links


def random_chain(seed: int) -> Graph:
    """Windows of all kinds: strides that leave rows out, padding or none, residuals."""
    rng = random.Random(seed)
    builder = GraphBuilder((1, rng.randint(6, 14), rng.randint(3, 7), rng.choice([1, 3, 4])), seed)
    value = builder.input
    for _ in range(rng.randint(2, 5)):
        kernel, stride = (rng.choice([1, 2, 3, 5]), 2), (rng.choice([1, 1, 2, 3]), 1)
        rows, columns = builder.shape(value)[1:3]
        same = rows < kernel[0] or columns < 2 or rng.random() < 0.6
        match rng.randrange(4):
            case 0:
                value = builder.conv(value, rng.randint(1, 9), kernel, stride, same=same)
            case 1:
                value = builder.depthwise(value, kernel, stride, multiplier=rng.choice([1, 2]), same=same)
            case 2:
                value = builder.add(value, builder.conv(value, builder.shape(value)[3]))
            case 3:
                value = builder.conv(value, rng.randint(1, 12))
    return builder.finish(builder.mean(value) if rng.random() < 0.3 else value)


def test_links_are_layers_and_residual_blocks() -> None:
    builder = GraphBuilder((1, 8, 8, 4))
    value = builder.conv(builder.input, 8)
    value = builder.add(value, builder.conv(builder.depthwise(value), 8))
    graph = builder.finish(builder.fully_connected(builder.mean(value), 5))
    assert [link.layers for link in links_of(graph)] == [1, 3, 1, 1]


def test_what_works_in_place_belongs_to_what_it_works_on() -> None:
    """Then the link's output lies on what it has inside, which the facts of a link do not see: no chain."""
    builder = GraphBuilder((1, 8, 8, 4))
    graph = builder.finish(builder.elementwise(OpKind.RELU, builder.conv(builder.input, 8)))
    assert chain(graph, "dsp") is None
    assert plan(graph, "dsp").arena_bytes < 8 * 8 * (8 + 4)


def test_layers_that_nobody_reads_make_no_chain() -> None:
    """In a stream they keep pace with the last layer, wherever that is."""
    builder = GraphBuilder((1, 10, 6, 4))
    builder.conv(builder.input, 3, (3, 3))
    graph = builder.finish(builder.conv(builder.conv(builder.input, 8), 4))
    assert chain(graph, "dsp") is None
    verify_plan(plan(graph, "dsp"))


@pytest.mark.parametrize("seed", range(60))
def test_random_chains_survive(seed: int) -> None:
    planned = plan(random_chain(seed), "dsp")
    verify_plan(planned)
    assert planned.arena_bytes >= planned.lower_bound_bytes


@pytest.mark.parametrize("seed", range(4))
def test_rings_of_a_link_are_those_in_any_stream(seed: int) -> None:
    graph = candidate(seed)
    links = links_of(graph)
    streamable = next(at for at, link in enumerate(links) if link.streamed is None)
    layers = sum(link.layers for link in links[:streamable])
    cuts = (range(layers), *(range(layer, layer + 1) for layer in range(layers, len(graph.operators))))
    timetable = Timetable(graph, [0] * len(graph.operators), cuts)
    at = seen = 0
    for link in links[:streamable]:
        first = graph.operators[at]
        entering = timetable.storage[graph.activations_in(first)[0]]
        if at and entering in timetable.ring:
            seen += 1
            row_bytes = graph.tensors[entering].size_bytes // graph.tensors[entering].shape[1]
            assert link.streamed is not None
            assert link.streamed.input_ring == -(-timetable.ring[entering] * row_bytes // 4) * 4
        at += link.layers
    assert seen > 5


@pytest.mark.parametrize("seed", range(20))
def test_tensors_between_steps_suit_both(seed: int) -> None:
    links = links_of(candidate(seed))
    layout = lay_out(links)
    arena = layout.arena_bytes - layout.counter_bytes
    steps = all_steps(links, layout)
    assert [step.start for step in steps[1:]] == [step.stop for step in steps[:-1]]
    assert arena <= 1.1 * max(step.need_bytes for step in steps)
    offsets = offsets_of(steps, arena)
    for step, source, target in zip(steps, offsets, offsets[1:], strict=False):
        assert target <= source - step.displacement or target >= source + step.entering
        spans = [(source, source + step.entering), (target, target + step.leaving)]
        inner = inner_offset(step, source, target, arena)
        assert all(start >= 0 and end <= arena for start, end in [*spans, (inner, inner + step.inner_bytes)])
        assert all(inner + step.inner_bytes <= start or end <= inner for start, end in spans)


def test_cuts_are_the_best_of_all() -> None:
    """Every way to cut the first links of a few candidates, by brute force."""
    for seed in range(3):
        links = links_of(candidate(seed))
        steps = all_steps(links, lay_out(links))
        limit = max(step.need_bytes for step in steps)
        units = sum(step.units for step in steps)
        best = brute_force(links, limit)
        assert best == (limit, units)


def brute_force(links: tuple[Link, ...], limit: int) -> tuple[int, int]:
    """The least peak, and the fewest rows that keep to ``limit``, over all cuts."""
    count = len(links)
    ways: list[list[tuple[int, int, int]]] = []
    for start, link in enumerate(links):
        own = [(cover.need_bytes, start + 1, cover.units) for cover in (link.whole, link.alone, *link.covers())]
        ways.append(own + [(need, stop, units) for need, stop, _, units, _ in streams_from(links, start)])
    least, rows = [0] * (count + 1), [0] * (count + 1)
    for start in reversed(range(count)):
        ends = [way for way in ways[start] if way[0] in (links[start].whole.need_bytes, links[start].alone.need_bytes)]
        ends += [way for way in ways[start] if way[1] > start + 1]
        least[start] = min(max(need, least[stop]) for need, stop, _ in ends)
        rows[start] = min((units + rows[stop] for need, stop, units in ways[start] if need <= limit), default=1 << 40)
    return least[0], rows[0]
