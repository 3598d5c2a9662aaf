"""The calculation for many devices, held against programs compiled for eight."""

import collections
import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import pytest

import jaxsparse
from benchmarks.scale import arithmetic, programs
from benchmarks.scale.__main__ import Arguments, check
from benchmarks.scale.arithmetic import Machine, Sizes
from benchmarks.scale.collectives import Collective, collectives
from benchmarks.scale.page import amount, page, terminal_table
from benchmarks.scale.rows import Scale, exchanges, extended, totals
from benchmarks.scale.transformer import Decoder, bytes_per_device, placed
from experiments.mesh import spec_of

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks" / "results"
SMALL = Decoder(layers=1, width=128, mlp=352, heads=4, vocabulary=512)
# Four matrices of 128 x 128, three of 128 x 352, the head and, dense, the embedding and norms.
MATRICES = [4 * 128 * 128, 3 * 128 * 352, 512 * 128]
WEIGHTS = sum(MATRICES)
ALL = WEIGHTS + 512 * 128 + 3 * 128

PROGRAM = """HloModule test

%add (x: s32[], y: s32[]) -> s32[] {
  ROOT %z = s32[] add(%x, %y)
}

%inner (p: s32[3]) -> s32[3] {
  ROOT %r = (s32[], s32[3]{0}, /*index=2*/pred[2,2]{1,0}) all-reduce(%p, %p, %p), \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%add
}

%outer (p: s32[3]) -> s32[3] {
  %w = s32[3] while(%p), condition=%cond, body=%inner
  ROOT %g = bf16[8,3]{1,0} all-gather(%w), replica_groups=[2,4]<=[8], dimensions={0}
}

%cond (p: s32[3]) -> pred[] {
  ROOT %c = pred[] constant(false)
}

ENTRY %main (p: s32[3]) -> f32[2] {
  %w.1 = s32[3] while(%p), condition=%cond, body=%outer
  ROOT %s = f32[2]{0} reduce-scatter(%w.1), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""


def test_a_program_is_read() -> None:
    assert collectives(PROGRAM, 8) == [
        Collective("all-reduce", 4 + 12 + 4, 4, ("outer", "inner")),
        Collective("all-gather", 48, 4, ("outer",)),
        Collective("reduce-scatter", 8, 8, ()),
    ]
    with pytest.raises(ValueError, match="all-gather-start is not read"):
        collectives(PROGRAM.replace("all-gather(", "all-gather-start("), 8)
    with pytest.raises(ValueError, match="size of c64 is not known"):
        collectives(PROGRAM.replace("bf16", "c64"), 8)


def test_what_a_device_sends_in_a_ring() -> None:
    sent = lambda kind, size: Collective(kind, size, 8, ()).sent
    assert sent("all-reduce", 80) == 140  # 7/8 summed, and 7/8 of the sums handed on
    assert sent("all-gather", 80) == 70
    assert sent("reduce-scatter", 10) == 70  # of 80 bytes, of which 10 are kept
    assert sent("all-to-all", 80) == 70
    assert sent("collective-permute", 80) == 80


def test_the_default_is_llama_7b() -> None:
    params = Decoder().params()
    # What the published checkpoint has.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 6_738_415_616
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))


def test_weights_lie_along_their_largest_dimensions() -> None:
    one, two = programs.mesh_of(8), programs.mesh_of(4, 2)
    array = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")
    assert tuple(spec_of((16, 24), one.shape)) == (None, "data")
    assert tuple(spec_of((16, 24), two.shape)) == ("model", "data")
    assert tuple(spec_of((7,), one.shape)) == (None,)
    assert bytes_per_device(placed([array(16, 24), array(7)], two)) == 4 * (2 * 4 * 6 + 7)


# --- compiled, for a small decoder on eight devices ----------------------------------------------

optimizer = functools.cache(lambda: programs.optimizer("rigl", 0.9))


@pytest.fixture(scope="module")
def update() -> programs.Program:
    return programs.update(optimizer(), SMALL, programs.mesh_of(8))


def by_place(program: programs.Program) -> dict[Any, tuple[int, int]]:
    """(Loops, kind) to number and bytes."""
    found: dict[Any, list[int]] = collections.defaultdict(list)
    for one in program.exchanged:
        found[one.loops, one.kind].append(one.size)
    return {place: (len(sizes), sum(sizes)) for place, sizes in found.items()}


def sizes() -> Sizes:
    return arithmetic.sizes_of(optimizer(), SMALL)


def test_sizes_by_hand() -> None:
    assert sizes().leaves == 12
    assert len(sizes().weights) == 8
    assert sum(sizes().weights) == WEIGHTS
    assert sizes().params == 4 * ALL
    assert sizes().embedding == 4 * 512 * 128


def test_counting_exchanges_what_the_formula_says(update: programs.Program) -> None:
    found = by_place(update)
    assert {kind for _, kind in found} == {"all-reduce"}
    depths = sorted(len(loops) for loops, _ in found)
    # Nothing at every step; what is once an update; and two searches.
    assert depths == [1, 2, 2]
    for (loops, _), (number, size) in found.items():
        if len(loops) == 1:
            assert (number, size) == (2, arithmetic.once_bytes(sizes()))
        else:
            assert (number, size) == (3, arithmetic.pass_bytes(sizes()))
    assert arithmetic.pass_bytes(sizes()) == 8 * 7 * 4
    assert arithmetic.once_bytes(sizes()) == 8 * 3 * 4 + (12 + 2 * 8) * 2 * 4


def test_memory_by_arithmetic_is_that_of_the_program(update: programs.Program) -> None:
    held = arithmetic.memory(optimizer(), SMALL, programs.mesh_of(8))
    assert held.params == held.gradients == 4 * ALL // 8
    assert held.masks == WEIGHTS // 8
    # Two moments, and a few numbers on every device.
    assert 0 < held.optimizer - 2 * held.params < 200
    known = sum(held) - held.temporaries
    assert abs(update.arguments - known) < 200
    assert sum(held) == pytest.approx(update.arguments + update.temporaries, rel=0.05)


def test_argsort_gathers_all_scores_twice() -> None:
    program = programs.argsort_update(optimizer(), SMALL, programs.mesh_of(8))
    assert by_place(program) == {
        ((), "all-gather"): (2 * 8, arithmetic.argsort_bytes(sizes())),
        ((), "all-reduce"): (1, 4 * 8),  # the densities, as floats
    }
    assert arithmetic.argsort_bytes(sizes()) == 8 * WEIGHTS
    least = programs.argsort_update(optimizer(), SMALL, programs.mesh_of(8), largest=True)
    assert by_place(least)[(), "all-gather"] == (2, 8 * max(sizes().weights))
    assert program.temporaries > least.temporaries >= arithmetic.argsort_temporaries(sizes())


def test_a_training_step_gathers_twice_and_scatters_once() -> None:
    found = by_place(programs.gradient(SMALL, programs.mesh_of(8)))
    gathered, scattered = arithmetic.step_bytes(sizes())
    assert found == {
        ((), "all-gather"): (2 * 12 - 1, gathered),
        ((), "reduce-scatter"): (12, scattered // 8),
        ((), "all-reduce"): (1, 4),  # the loss
    }


def test_a_deeper_model_is_foreseen() -> None:
    tx, mesh = optimizer(), programs.mesh_of(8)
    read = lambda layers: programs.argsort_update(
        tx, dataclasses.replace(SMALL, layers=layers), mesh
    )
    one, two, four = read(1), read(2), read(4)
    foreseen, real = extended([one, two], (1, 2), 4), totals(four)
    assert foreseen.exchanged == real.exchanged
    assert foreseen.arguments == pytest.approx(real.arguments, rel=0.01)
    with pytest.raises(ValueError, match="unlike ways"):
        extended([one, two._replace(exchanged=[])], (1, 2), 4)


# --- time and the page ---------------------------------------------------------------------------


def test_times_by_hand() -> None:
    machine = Machine(
        memory_gb_s=1.0, inside_gb_s=0.1, between_gb_s=0.01, latency_us=10.0, hop_us=1.0
    )
    own = Sizes(leaves=1, weights=[800], params=3200, embedding=0)
    # A hundred weights a device: two searches of three passes, five bytes, and six for the mask.
    seconds = arithmetic.search_seconds(own, 8, 3, 1, (4, 50.0), machine)
    assert seconds == pytest.approx(2 * 100 * (3 * 5 + 6) / 1e9 + 4 * 10e-6 + 50 / 1e8)
    # Sixteen devices: two hosts, one doubling, and the slower link.
    seconds = arithmetic.argsort_seconds(own, 16, (4, 50.0), machine)
    assert seconds == pytest.approx(2 * 800 * 68 / 1e9 + 4 * 12e-6 + 50 / 1e7)


def test_amounts() -> None:
    assert [amount(x) for x in (12.4, 6300, 2.5e6, 53e9)] == ["12 B", "6.3 kB", "2.5 MB", "53 GB"]


def test_the_page_of_a_run(update: programs.Program) -> None:
    held = arithmetic.memory(optimizer(), SMALL, programs.mesh_of(8))
    rows = exchanges(totals(update), "update")
    assert [row.of for row in rows] == ["update", "pass of search 1", "pass of search 2"]
    scale = Scale(8, "jaxsparse", held, 0.0, held, 1e6, rows, 10.0, 6300.0, 74, 1e-3, 2e-3)
    about = {"peak_host_gib": 0.5, "jax": "1", "python": "3", "commit": "c", "date": "d"}
    text = page([scale], dataclasses.asdict(Arguments()), about)
    assert "nothing here was measured" in text
    assert "| 6.3 kB |" in text.replace("  ", "")
    assert "1 to 2 |" in text
    assert terminal_table([scale]).row_count == 1


def test_the_committed_page_is_of_its_numbers() -> None:
    numbers = json.loads((RESULTS / "scale_7b.json").read_text())
    assert [row["devices"] for row in numbers["rows"]] == [8, 8, 64, 64, 512, 512]
    tx = optimizer()
    own = arithmetic.sizes_of(tx, Decoder())
    for ours, theirs in zip(numbers["rows"][::2], numbers["rows"][1::2], strict=True):
        n = ours["devices"]
        sent = {row[0]: row[4] for row in ours["exchanged"] if row[1] == "all-reduce"}
        ring = 2 * (n - 1) / n
        assert sent["pass of search 1"] == pytest.approx(ring * arithmetic.pass_bytes(own))
        assert sent["update"] == pytest.approx(ring * arithmetic.once_bytes(own))
        gathered = (n - 1) / n * arithmetic.argsort_bytes(own)
        assert theirs["update_sent"] == pytest.approx(gathered, rel=1e-6)
    text = (RESULTS / "scale_7b.md").read_text()
    assert numbers["environment"]["commit"] in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": (1,)}, r"devices is \(1,\)"),
        ({"depths": (2, 1)}, r"depths is \(2, 1\)"),
        ({"method": "riggl"}, "method is 'riggl'; give one of"),
    ],
)
def test_what_cannot_be_calculated_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(Arguments(), **change))
    assert "rigl" in jaxsparse.ALGORITHMS
