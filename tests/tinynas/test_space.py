"""Spaces as data: text, genes and files."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.graph import total_macs
from tests.tinynas.synthetic import SHAPE, tiny_space
from tinynas.architecture import EXAMPLE, Architecture, Block
from tinynas.blocks.cell import from_nasbench, live_edges, steps, to_nasbench
from tinynas.errors import SearchError
from tinynas.lower import lower
from tinynas.space import InputShape, SearchSpace, default_space, load_space, space_names

every_space = pytest.mark.parametrize("name", space_names())
SHAPES: dict[str, InputShape] = {"mobilenet": (224, 224, 3)}


def of(name: str) -> tuple[SearchSpace, InputShape]:
    return load_space(name), SHAPES.get(name, SHAPE)


def test_blocks_are_letters_and_values() -> None:
    block = Block.parse("k3e14")
    assert (block["k"], block["e"], str(block)) == (3, 14, "k3e14")
    with pytest.raises(KeyError):
        block["s"]


@given(st.lists(st.tuples(st.sampled_from("abcekgs"), st.integers(0, 999)), min_size=1, unique_by=lambda pair: pair[0]))
def test_a_blocks_text_round_trips(choices: list[tuple[str, int]]) -> None:
    assert Block.parse(str(Block(tuple(choices)))) == Block(tuple(choices))


@every_space
def test_text_and_genes_round_trip(name: str) -> None:
    space, shape = of(name)
    rng = random.Random(0)
    genes = space.genes(shape)
    for _ in range(50):
        architecture = space.sample(rng, shape)
        assert Architecture.parse(str(architecture)) == architecture
        genotype = space.encode(architecture, shape)
        assert len(genotype) == len(genes)
        assert space.decode(genotype, shape) == architecture
        noise = [
            rng.randrange(len(gene.values)) if index is None else index
            for gene, index in zip(genes, genotype, strict=True)
        ]
        assert space.decode(noise, shape) == architecture


def test_the_genes_of_a_small_space_are_these() -> None:
    space = load_space("mobilenet_small")
    architecture = Architecture.parse(EXAMPLE)
    values = {
        gene.name: None if index is None else gene.values[index]
        for gene, index in zip(space.genes(SHAPE), space.encode(architecture, SHAPE), strict=True)
    }
    assert list(values)[:8] == [
        "resolution",
        "width",
        "stage0.depth",
        "stage0.block0.kernel",
        "stage0.block0.expansion",
        "stage0.block1.kernel",
        "stage0.block1.expansion",
        "stage1.depth",
    ]
    assert (values["resolution"], values["width"], values["stage0.depth"], values["stage1.depth"]) == (28, 0.5, 1, 2)
    assert values["stage0.block0.kernel"] == 3
    assert values["stage0.block1.kernel"] is None
    assert values["stage1.block1.expansion"] == 4


def test_genes_that_count_need_a_value() -> None:
    space = tiny_space()
    genotype = list(space.encode(space.sample(random.Random(0), SHAPE), SHAPE))
    with pytest.raises(SearchError, match="genes and not 2"):
        space.decode(genotype[:2], SHAPE)
    genotype[3] = None
    with pytest.raises(SearchError, match=r"stage0\.block0\.kernel of the space 'tiny' has no value"):
        space.decode(genotype, SHAPE)


def test_every_architecture_comes_once_in_the_order_of_the_genes() -> None:
    space = tiny_space()
    every = list(space.every(SHAPE))
    assert len(every) == len(set(every)) == space.size(SHAPE) == 24
    genotypes = [space.encode(architecture, SHAPE) for architecture in every]
    assert genotypes == sorted(genotypes, key=lambda genotype: [-1 if index is None else index for index in genotype])


@every_space
def test_a_restricted_space_keeps_one_value_each(name: str) -> None:
    space, shape = of(name)
    for resolution in space.resolutions(shape):
        part = space.restricted(shape, resolution=resolution, width=space.widths[-1])
        assert part.resolutions(shape) == (resolution,)
        assert part.widths == space.widths[-1:]
        assert part.name == space.name
        space.check(part.sample(random.Random(0), shape), shape)
    assert space.restricted(shape) == space
    with pytest.raises(SearchError, match="resolution 1 is not in the space"):
        space.restricted(shape, resolution=1)
    with pytest.raises(SearchError, match="width 9 is not in the space"):
        space.restricted(shape, width=9)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected <space>"),
        ("small-r28-w1", "expected <space>"),
        ("Small-r28-w1-k3", "'Small' is not the name of a space"),
        ("small-28-w1-k3", "'28' is not a resolution"),
        ("small-r28-w1.-k3", "'w1.' is not a width"),
        ("small-r28-w1-k3_", "'' is not a block"),
        ("small-r28-w1-k3--k3", "'' is not a block"),
        ("small-r28-w1-k3e", "'k3e' is not a block"),
        ("small-r28-w1-k3-k3e2k5", "'k3e2k5' is not a block: it gives a letter twice"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, complaint: str) -> None:
    with pytest.raises(SearchError, match=complaint):
        Architecture.parse(text)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (("space-", "other-"), "space 'other' is not in the space"),
        (("r28", "r27"), "resolution 27"),
        (("w0.5", "w0.3"), "width 0.3"),
        (("-k3e2_k5e3", ""), "3 stages"),
        (("k3e2_k5e3", "k3e2_k5e3_k3e2_k3e2"), "depth 4 of stage 1"),
        (("k3e2_k5e3", "k3e2_k9e3"), "kernel 9 of stage 1"),
        (("k3e2_k5e3", "k3e2_k3e1"), "expansion 1 of stage 1"),
        (("k3e2_k5e3", "k3e2_e3k5"), "block e3k5 of stage 1.*the letters k, e"),
        (("k3e2_k5e3", "k3e2_k5e3g2"), "block k5e3g2 of stage 1"),
    ],
)
def test_what_is_not_in_the_space_is_named(changed: tuple[str, str], complaint: str) -> None:
    space = load_space("mobilenet_small")
    text = "mobilenet_small-r28-w0.5-k3e1-k3e2_k5e3-k7e2-k3e2"
    space.check(Architecture.parse(text), SHAPE)
    old = changed[0].replace("space-", "mobilenet_small-")
    with pytest.raises(SearchError, match=complaint):
        space.check(Architecture.parse(text.replace(old, changed[1], 1)), SHAPE)


MINE = """
name = "mine"
description = "one of my own"
resolution_scales = [1.0]
widths = [1.0]
block = "inverted"
choices = { kernel = [3], expansion = [2, 3] }
channel_multiple = 4
stem = { channels = 8, kernel = 3, stride = 2 }
stages = [{ channels = 8, stride = 1, depths = [1, 2] }]
"""


def test_a_space_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE, encoding="utf-8")
    space = load_space(str(path))
    assert space == load_space(path)
    assert space.size(SHAPE) == 2 + 4
    assert str(next(space.every(SHAPE))) == "mine-r28-w1-k3e2"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "mine"', 'name = "Mine"', "at name"),
        ('"inverted"', '"inverse"', "there is no block 'inverse'; choose from inverted"),
        ("kernel = [3], ", "", "stage 0 needs values for kernel, expansion"),
        ("kernel = [3]", "kernel = []", "stage 0 needs values"),
        ("expansion = [2, 3]", "expansion = [2, 2]", "needs distinct values"),
        ("stride = 2 }", "stride = 0 }", r"stem\.stride"),
        ("widths = [1.0]", "widths = 1.0 x", "is not TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace(old, new), encoding="utf-8")
    with pytest.raises(SearchError, match=complaint):
        load_space(path)


def test_a_space_that_is_not_there_is_an_error_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"there is no search space 'mobile'; choose from .*mobilenet"):
        load_space("mobile")
    with pytest.raises(SearchError, match="cannot read the search space"):
        load_space(tmp_path / "absent.toml")


CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


def test_cells_convert_from_and_to_nas_bench_201() -> None:
    block = from_nasbench(CELL)
    assert str(block) == "a4b0c1d2e0f3"
    assert to_nasbench(block) == CELL
    for wrong in ("", CELL[1:], CELL.replace("none~1", "none~2"), CELL.replace("1x1", "5x5"), CELL + "|"):
        with pytest.raises(SearchError, match="not a cell"):
            from_nasbench(wrong)


def test_every_cell_of_nas_bench_201_is_read(references: Path) -> None:
    with (references / "data" / "nasbench201_phone_latency.csv").open(encoding="utf-8") as rows:
        texts = [row["arch"] for row in csv.DictReader(rows)]
    blocks = {from_nasbench(text) for text in texts}
    assert len(blocks) == len(texts) == 15_625
    assert {to_nasbench(block) for block in blocks} == set(texts)
    space = load_space("nasbench201").restricted(SHAPE, resolution=28, width=1.0)
    valid = {architecture.stages[0][0] for architecture in space.every(SHAPE)}
    assert valid == {block for block in blocks if has_path(block)}
    assert space.size(SHAPE) == len(valid) * 27


def has_path(block: Block) -> bool:
    """Whether some chain of edges leads from node 0 to node 3: of the four there are, by hand."""
    return any(all(block[letter] for letter in chain) for chain in ("d", "ae", "bf", "acf"))


def test_cells_that_compute_nothing_are_refused_and_repaired() -> None:
    space = load_space("nasbench201")
    text = "nasbench201-r28-w1-" + "-".join(["a4b0c4d0e0f0"] * 3)
    with pytest.raises(SearchError, match=r"a4b0c4d0e0f0, whose output does not depend on its input"):
        space.check(Architecture.parse(text), SHAPE)
    with pytest.raises(SearchError, match="a network of several cells"):
        space.check(Architecture.parse("nasbench201-r28-w1-a4b0c4d1e0f0-a4b0c4d2e0f0-a4b0c4d1e0f0"), SHAPE)
    genes = [gene.name for gene in space.genes(SHAPE)]
    assert genes == [
        "resolution",
        "width",
        *(f"cell.edge{edge}" for edge in ("01", "02", "12", "03", "13", "23")),
        *(f"stage{index}.depth" for index in range(3)),
    ]
    repaired = space.decode([0, 0, 4, 0, 4, 0, 0, 0, 0, 0, 0], SHAPE)
    assert str(repaired.stages[0][0]) == "a4b0c4d1e0f0"
    space.check(repaired, SHAPE)
    assert space.decode(space.encode(repaired, SHAPE), SHAPE) == repaired


def test_dead_edges_of_a_cell_are_not_computed() -> None:
    # Node 1 has no input; node 2 has one, and no output.
    assert live_edges(Block.parse("a0b4c4d3e4f0")) == (("d", 0, 3),)
    assert [step.letter for step in steps(Block.parse("a0b4c4d3e4f0"))] == ["d"]
    assert steps(Block.parse("a1b0c0d0e1f0")) == ()  # the input itself
    # The pool of the input is needed thrice and computed once.
    assert [(step.letter, step.operands) for step in steps(Block.parse("a2b2c0d2e1f1"))] == [
        ("a", (0,)),
        ("e", (1, 1)),
        ("f", (2, 1)),
    ]


@pytest.mark.parametrize("shape", [(100, 1, 6), (16, 1, 1)])
def test_windows_have_a_space_of_their_own(shape: InputShape) -> None:
    space = default_space(shape)
    assert space.name == "sensor"
    parameters = [
        sum(tensor.elements for tensor in lower(architecture, space, shape, 6).tensors if tensor.is_constant)
        for architecture in (space.extreme(shape, largest=largest) for largest in (False, True))
    ]
    assert parameters[0] <= 815
    assert parameters[1] >= 50_000


def test_mobilenet_has_the_108_sub_spaces_of_tinynas() -> None:
    space, shape = of("mobilenet")
    assert space.resolutions(shape) == tuple(range(48, 225, 16))
    assert len(space.resolutions(shape)) * len(space.widths) == 108


@every_space
def test_the_extremes_are_the_smallest_and_the_largest(name: str) -> None:
    space, shape = of(name)
    smallest, largest = (
        total_macs(lower(space.extreme(shape, largest=largest), space, shape, 10)) for largest in (False, True)
    )
    rng = random.Random(0)
    for _ in range(50):
        assert smallest <= total_macs(lower(space.sample(rng, shape), space, shape, 10)) <= largest
