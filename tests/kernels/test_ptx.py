"""Kernels of PTX on the CPU: memory, threads that work together, what is refused and what is a fault."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from calib_gpu.testing.ptx import KernelFault, PtxError, PtxKernel, UnknownInstruction
from one_instruction import HEAD, needs_compiler

pytestmark = [pytest.mark.kernels, needs_compiler]
ORDERS: list[Any] = ["forward", "reversed", "shuffled"]


def kernel(body: str, params: str = ".param .u64 out, .param .u64 in", before: str = "") -> PtxKernel:
    """A kernel whose %o and %i are its two pointers, %t and %b the numbers of thread and block."""
    start = """
    .reg .b64 %o, %i, %p, %q; .reg .b32 %t, %b, %n, %x, %y; .reg .f64 %d, %e; .reg .f32 %f<8>; .reg .pred %c;
    ld.param.u64 %o, [out]; ld.param.u64 %i, [in]; mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x; mov.u32 %n, %ntid.x;
    """
    return PtxKernel(f"{HEAD}{before}\n.visible .entry k({params})\n{{ {start} {body} ret; }}\n", "k")


# --- memory


def test_vectors_of_every_width_are_copied() -> None:
    for width, vector, registers in (
        (16, "v4.b32", 4),
        (8, "v2.b32", 2),
        (16, "v2.b64", 2),
        (8, "v4.u16", 4),
        (4, "v4.u8", 4),
    ):
        kind = {"b": "b"}.get(vector[3], "b") + {"8": "16"}.get(vector[4:], vector[4:])
        names = ", ".join(f"%v{i}" for i in range(registers))
        body = f"""
        .reg .{kind} %v<{registers}>;
        mul.wide.u32 %p, %t, {width}; add.s64 %q, %i, %p; add.s64 %p, %o, %p;
        ld.global.nc.{vector} {{{names}}}, [%q]; st.global.{vector} [%p], {{{names}}};
        """
        data = np.random.default_rng(3).integers(0, 256, 32 * width, "u1")
        data.flags.writeable = False
        out = np.zeros_like(data)
        kernel(body).run(1, 32, [out, data])
        np.testing.assert_array_equal(out, data)


def test_narrow_loads_extend_and_nan_payloads_survive_a_copy() -> None:
    data = np.array([0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 0x80], "u8")
    out = np.zeros(5, "u8")
    body = """
    ld.global.f64 %d, [%i]; st.global.f64 [%o], %d;
    ld.global.s8 %p, [%i+16]; st.global.u64 [%o+8], %p;
    ld.global.u8 %p, [%i+16]; st.global.u64 [%o+16], %p;
    ld.global.s32 %p, [%i+8]; st.global.u64 [%o+24], %p;
    ld.global.u16 %x, [%i+8]; cvt.u64.u32 %p, %x; st.global.u64 [%o+32], %p;
    """
    kernel(body).run(1, 1, [out, data])
    assert [hex(x) for x in out] == [hex(x) for x in (0x7FF0000000000001, 2**64 - 128, 128, 2**64 - 1, 0xFFFF)]


def test_constants_locals_and_generic_addresses() -> None:
    before = """
    .const .align 8 .f64 table[3] = {0d3FF0000000000000, 0d4000000000000000};
    .global .align 4 .u32 counter = 7;
    .shared .align 8 .b8 room[64];
    """
    body = """
    .local .align 8 .b8 own[16]; .reg .b64 %l, %s, %g;
    ld.const.f64 %d, [table+8]; st.global.f64 [%o], %d;
    ld.const.f64 %d, [table+16]; st.global.f64 [%o+8], %d;
    mov.u64 %l, own; st.local.f64 [%l+8], 0d4010000000000000; cvta.local.u64 %l, %l;
    ld.f64 %d, [%l+8]; st.global.f64 [%o+16], %d;
    mov.u64 %s, room; cvta.shared.u64 %s, %s; st.f64 [%s+56], 0d4020000000000000;
    ld.shared.f64 %d, [room+56]; st.global.f64 [%o+24], %d;
    mov.u64 %g, counter; atom.global.add.u32 %x, [%g], 5;
    ld.global.u32 %x, [counter]; cvt.rn.f64.u32 %d, %x; st.global.f64 [%o+32], %d;
    """
    out = np.zeros(5)
    kernel(body, before=before).run(1, 1, [out, out])
    assert out.tolist() == [2.0, 0.0, 4.0, 8.0, 12.0]


def test_parameters_by_value_and_three_dimensions() -> None:
    ptx = f"""{HEAD}
    .visible .entry k(.param .u64 out, .param .f64 a, .param .align 4 .b8 s[12], .param .u8 c) {{
    .reg .b64 %o, %p; .reg .b32 %x<14>; .reg .f64 %a, %d; .reg .b16 %h;
    ld.param.u64 %o, [out]; ld.param.f64 %a, [a]; ld.param.u32 %x0, [s+8]; ld.param.u8 %h, [c]; cvt.u32.u16 %x1, %h;
    mov.u32 %x2, %ctaid.x; mov.u32 %x3, %ctaid.y; mov.u32 %x4, %ctaid.z; mov.u32 %x5, %tid.x;
    mov.u32 %x6, %tid.y; mov.u32 %x7, %tid.z;
    mov.u32 %x8, %nctaid.x; mov.u32 %x9, %nctaid.y; mov.u32 %x10, %ntid.x; mov.u32 %x11, %ntid.y; mov.u32 %x12, %ntid.z;
    mad.lo.u32 %x4, %x4, %x9, %x3; mad.lo.u32 %x4, %x4, %x8, %x2; mad.lo.u32 %x4, %x4, %x12, %x7; mad.lo.u32 %x4, %x4, %x11, %x6;
    mad.lo.u32 %x4, %x4, %x10, %x5; mul.wide.u32 %p, %x4, 8; add.s64 %p, %o, %p;
    mad.lo.u32 %x4, %x4, %x0, %x1; cvt.rn.f64.u32 %d, %x4; add.rn.f64 %d, %d, %a; st.global.f64 [%p], %d; ret; }}"""
    for order in ORDERS:
        out = np.zeros(2 * 3 * 4 * 5 * 2 * 3)
        struct = np.array([1, 2, 1000], "i4").tobytes()
        PtxKernel(ptx, "k").run((2, 3, 4), (5, 2, 3), [out, np.float64(0.5), struct, np.uint8(200)], order=order)
        np.testing.assert_array_equal(out, np.arange(out.size) * 1000 + 200.5)


# --- threads


def test_shared_memory_is_reversed_across_a_barrier_in_any_order() -> None:
    body = """
    .reg .b32 %s, %m;
    shl.b32 %x, %t, 2; mov.u32 %s, room; add.s32 %s, %s, %x; st.shared.u32 [%s], %t; bar.sync 0;
    sub.s32 %m, %n, %t; add.s32 %m, %m, -1; shl.b32 %m, %m, 2; mov.u32 %s, room; add.s32 %s, %s, %m; ld.shared.u32 %y, [%s];
    mad.lo.s32 %x, %b, %n, %t; mul.wide.u32 %p, %x, 4; add.s64 %p, %o, %p; st.global.u32 [%p], %y;
    """
    for order in ORDERS:
        out = np.zeros(3 * 96, "u4")
        kernel(body, before=".extern .shared .align 16 .b8 room[];").run(
            3, 96, [out, out], shared_bytes=384, order=order, seed=9
        )
        np.testing.assert_array_equal(out.reshape(3, 96), np.tile(np.arange(96)[::-1], (3, 1)))


def test_shared_memory_begins_as_nan() -> None:
    out = np.zeros(1)
    kernel("ld.shared.f64 %d, [room]; st.global.f64 [%o], %d;", before=".shared .align 8 .b8 room[8];").run(
        1, 1, [out, out]
    )
    assert math.isnan(out[0])


def test_atomics_count_every_thread() -> None:
    body = """
    red.global.add.u32 [%o], 1; atom.global.max.s32 %x, [%o+4], %t; red.global.min.s32 [%o+8], %t; red.global.or.b32 [%o+12], %n;
    atom.global.cas.b32 %x, [%o+16], 0, 9; red.global.add.u64 [%o+24], 4294967296; atom.global.exch.b32 %x, [%o+32], 77;
    atom.global.inc.u32 %x, [%o+36], 9; red.global.add.f64 [%o+40], 0d3FE0000000000000; atom.global.xor.b32 %x, [%o+48], 1;
    atom.global.and.b32 %x, [%o+52], 6; atom.global.dec.u32 %x, [%o+56], 9;
    """
    for order in ORDERS:
        out = np.zeros(16, "u4")
        out[2], out[13] = 100, 15
        kernel(body).run(5, 64, [out, out], order=order)
        assert out[:5].tolist() == [320, 63, 0, 64, 9]
        assert out[6:8].view("u8")[0] == 320 << 32
        assert out[8:10].tolist() == [77, 320 % 10]
        assert out[10:12].view("f8")[0] == 160.0
        assert out[12:15].tolist() == [0, 6, 0]


def test_float32_sums_flush_subnormals_in_global_memory_alone() -> None:
    body = """
    atom.global.add.f32 %f0, [%o], 0f00000001;
    st.shared.u32 [room], 0; atom.shared.add.f32 %f0, [room], 0f00000001; ld.shared.f32 %f1, [room]; st.global.f32 [%o+4], %f1;
    """
    out = np.zeros(2, "f4")
    kernel(body, before=".shared .align 4 .b8 room[4];").run(1, 1, [out, out])
    assert out.view("u4").tolist() == [0, 1]


def test_warps_shuffle_vote_and_reduce() -> None:
    body = """
    .reg .b32 %r<12>; .reg .pred %a<6>;
    add.u32 %x, %t, 100;
    shfl.sync.down.b32 %r0|%a0, %x, 3, 31, -1; shfl.sync.up.b32 %r1|%a1, %x, 5, 0, -1;
    shfl.sync.bfly.b32 %r2, %x, 16, 31, -1; shfl.sync.idx.b32 %r3, %x, 7, 31, -1; shfl.sync.idx.b32 %r4, %x, 1, 6175, -1;
    setp.gt.u32 %c, %t, 40; vote.sync.ballot.b32 %r5, %c, -1; vote.sync.any.pred %a2, %c, -1; vote.sync.all.pred %a3, %c, -1;
    redux.sync.add.u32 %r6, %t, -1; redux.sync.max.s32 %r7, %t, -1; bar.red.popc.u32 %r8, 0, %c; bar.red.and.pred %a4, 0, %c;
    selp.u32 %r9, 1, 0, %a0; selp.u32 %r10, 2, 0, %a1; or.b32 %r9, %r9, %r10; selp.u32 %r10, 4, 0, %a2; or.b32 %r9, %r9, %r10;
    selp.u32 %r10, 8, 0, %a3; or.b32 %r9, %r9, %r10; selp.u32 %r10, 16, 0, %a4; or.b32 %r9, %r9, %r10;
    mul.wide.u32 %p, %t, 40; add.s64 %p, %o, %p; bar.warp.sync -1;
    """ + " ".join(f"st.global.u32 [%p+{4 * i}], %r{i};" for i in range(10))
    lane, t = np.arange(64) % 32, np.arange(64)
    for order in ORDERS:
        out = np.zeros((64, 10), "u4")
        kernel(body).run(1, 64, [out, out], order=order, seed=2)
        np.testing.assert_array_equal(out[:, 0], t + 100 + np.where(lane + 3 < 32, 3, 0))
        np.testing.assert_array_equal(out[:, 1], t + 100 - np.where(lane >= 5, 5, 0))
        np.testing.assert_array_equal(out[:, 2], (t ^ 16) + 100)
        np.testing.assert_array_equal(out[:, 3], t - lane + 107)
        np.testing.assert_array_equal(out[:, 4], t // 8 * 8 + 101)  # segments of 8 lanes: 0x181f
        np.testing.assert_array_equal(out[:, 5], np.where(t < 32, 0, 0xFFFFFE00))
        np.testing.assert_array_equal(out[:, 6], np.where(t < 32, 496, 496 + 1024))
        np.testing.assert_array_equal(out[:, 7], np.where(t < 32, 31, 63))
        assert set(out[:, 8]) == {23}
        flags = (lane + 3 < 32) * 1 + (lane >= 5) * 2 + (t >= 32) * 4
        np.testing.assert_array_equal(out[:, 9], flags)


def test_shuffles_stay_within_their_segment() -> None:
    body = """
    .reg .b32 %r<6>; .reg .pred %a<3>;
    shfl.sync.down.b32 %r0|%a0, %t, 3, 6175, -1; shfl.sync.up.b32 %r1|%a1, %t, 3, 6144, -1;
    shfl.sync.bfly.b32 %r2|%a2, %t, 12, 6175, -1;
    selp.u32 %r3, 1, 0, %a0; selp.u32 %r4, 2, 0, %a1; or.b32 %r3, %r3, %r4; selp.u32 %r4, 4, 0, %a2; or.b32 %r3, %r3, %r4;
    mul.wide.u32 %p, %t, 16; add.s64 %p, %o, %p; st.global.v4.u32 [%p], {%r0, %r1, %r2, %r3};
    """
    t, place = np.arange(32), np.arange(32) % 8  # segments of 8 lanes: 0x181f, and 0x1800 upwards
    out = np.zeros((32, 4), "u4")
    kernel(body).run(1, 32, [out, out], order="reversed")
    down, up, cross = place + 3 < 8, place >= 3, (t ^ 12) <= (t | 7)
    np.testing.assert_array_equal(out[:, 0], np.where(down, t + 3, t))
    np.testing.assert_array_equal(out[:, 1], np.where(up, t - 3, t))
    np.testing.assert_array_equal(out[:, 2], np.where(cross, t ^ 12, t))
    np.testing.assert_array_equal(out[:, 3], down * 1 + up * 2 + cross * 4)


def test_loops_branches_and_tables_of_labels() -> None:
    body = """
    .reg .b32 %s, %k; mov.u32 %s, 0; mov.u32 %k, 0;
    $L_top: setp.ge.u32 %c, %k, %t; @%c bra $L_end; add.u32 %s, %s, %k; add.u32 %k, %k, 1; bra.uni $L_top;
    $L_end: rem.u32 %k, %t, 3;
    $L_table: .branchtargets $L_zero, $L_one, $L_two;
    brx.idx %k, $L_table;
    $L_one: add.u32 %s, %s, 1000; bra $L_zero;
    $L_two: mul.lo.u32 %s, %s, 2;
    $L_zero: mul.wide.u32 %p, %t, 4; add.s64 %p, %o, %p; st.global.u32 [%p], %s;
    """
    out = np.zeros(20, "u4")
    kernel(body).run(1, 20, [out, out])
    sums = [t * (t - 1) // 2 for t in range(20)]
    assert out.tolist() == [[s, s + 1000, 2 * s][t % 3] for t, s in enumerate(sums)]


def test_device_functions_are_called() -> None:
    before = """
    .func (.param .b64 r) square(.param .b64 a, .param .align 4 .b8 s[8]) {
    .reg .f64 %x, %y; .reg .b32 %k; ld.param.f64 %x, [a]; ld.param.b32 %k, [s+4]; cvt.rn.f64.s32 %y, %k;
    fma.rn.f64 %x, %x, %x, %y; st.param.f64 [r], %x; ret; }
    """
    body = """
    { .param .b64 p0; .param .align 4 .b8 p1[8]; .param .b64 r0; st.param.f64 [p0], 0d4008000000000000; st.param.b32 [p1+4], -2;
    call.uni (r0), square, (p0, p1); ld.param.f64 %d, [r0]; } st.global.f64 [%o], %d;
    """
    out = np.zeros(1)
    kernel(body, before=before).run(1, 1, [out, out])
    assert out[0] == 7.0


# --- refused


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("frobnicate.b32 %x, %y;", "frobnicate"),
        ("add.rn.relu.f64 %d, %d, %d;", "relu"),
        ("ld.global.newcache.f64 %d, [%i];", "newcache"),
        ("add.f16 %d, %d, %d;", "add"),
        ("fma.f64 %d, %d, %d, %d;", "rounding"),
        ("mov.u32 %x, %smid;", "%smid"),
        ("add.u32 %p, %x, %y;", "%p"),
        ("add.rn.f64 %d, %d, 0f00000000;", "0f00000000"),
        ("bar.sync 0, 32;", "operands"),
        ("call.uni vprintf, (%o);", "vprintf"),
        ("activemask.b32 %x;", "activemask"),
        (".reg .b128 %huge;", "b128"),
        ("cvt.f32.f64 %f0, %d;", "cvt"),
        ("st.const.f64 [%o], %d;", "constant"),
        ("add.u32 %x, %unknown, 1;", "%unknown"),
        ("ld.global.f64 %d, [table];", "const memory"),
        ("ld.const.f64 %d, [table+8];", "outside of table"),
    ],
)
def test_what_is_not_known_is_refused_by_name(body: str, named: str) -> None:
    with pytest.raises(UnknownInstruction, match=named) as error:
        kernel(body, before=".const .align 8 .f64 table[1];")
    assert "line" in str(error.value)


def test_a_sum_that_may_be_contracted_and_approximations_are_named() -> None:
    found = kernel("add.f64 %d, %d, %d; ex2.approx.ftz.f32 %f0, %f1; add.rn.f64 %d, %d, %d;").approximate
    assert found == {"add.f64 (may be contracted to fma)", "ex2.approx.ftz.f32"}


def test_wrong_launches_and_arguments_are_refused() -> None:
    ptx = f"{HEAD}.visible .entry k(.param .u64 a, .param .f64 b) .maxntid 64, 1, 1 {{ ret; }}"
    run = PtxKernel(ptx, "k").run
    good: list[Any] = [np.zeros(2), np.float64(1)]
    run(1, 64, good)
    for grid, block, args in (
        (1, 65, good),
        (0, 1, good),
        ((1, 70000), 1, good),
        (1, 1, good[:1]),
        (1, 1, [good[0], np.float32(1)]),
        (1, 1, [good[0], np.int64(1)]),
        (1, 1, [good[0], 1.0]),
    ):
        with pytest.raises(PtxError):
            run(grid, block, args)
    with pytest.raises(PtxError, match="shared_bytes"):
        run(1, 1, good, shared_bytes=8)
    with pytest.raises(PtxError, match="entries: k"):
        PtxKernel(ptx, "other")


# --- faults

STEP = "mul.wide.u32 %p, %t, 8; add.s64 %q, %i, %p; add.s64 %p, %o, %p;"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            f"{STEP} ld.global.f64 %d, [%q+8]; st.global.f64 [%p], %d;",
            "outside.*thread \\(7, 0, 0\\).*ld.global.f64.*read of 8 bytes",
        ),
        (f"{STEP} st.global.f64 [%p+-8], 0d0000000000000000;", "outside.*thread \\(0, 0, 0\\).*write of 8 bytes"),
        (f"{STEP} st.f64 [%p+8], 0d0000000000000000;", "outside"),
        (f"{STEP} st.global.f64 [%q], 0d0000000000000000;", "may not be written"),
        ("ld.global.f64 %d, [%i+4];", "no multiple"),
        ("ld.global.v2.f64 {%d, %e}, [%i+8];", "no multiple"),
        ("mov.u64 %p, room; ld.shared.f64 %d, [%p+8];", "outside"),
        ("mov.u64 %p, room; ld.shared.f64 %d, [%p+-8];", "outside"),
        ("ld.const.f64 %d, [%i];", "outside"),
        ("mov.u32 %x, 0; div.s32 %x, %t, %x;", "division by zero"),
        ("trap;", "trap"),
        ("setp.eq.u32 %c, %t, 3; @%c ret; bar.sync 0;", "threads ended"),
        ("setp.eq.u32 %c, %t, 3; @%c bar.sync 1; bar.sync 0;", "different barriers"),
        ("setp.eq.u32 %c, %t, 3; @%c bra $L; shfl.sync.idx.b32 %x, %t, 0, 31, 255; $L: bar.sync 0;", "without end"),
        ("setp.eq.u32 %c, %t, 3; @%c ret; shfl.sync.idx.b32 %x, %t, 0, 31, 255;", "mask names"),
        ("shfl.sync.idx.b32 %x, %t, 0, 31, -1;", "mask names"),
        ("setp.ne.u32 %c, %t, 3; @%c shfl.sync.idx.b32 %x, %t, 3, 31, 247;", "outside of its mask"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_faults_name_kernel_thread_and_line(body: str, says: str, order: Any) -> None:
    given = np.zeros(8)
    given.flags.writeable = False
    before = ".shared .align 8 .b8 room[8];"
    if order != "forward" and "thread \\(" in says and "(7" not in says:
        says = says.split(".*thread")[0]
    found = kernel(body, before=before)
    with pytest.raises(KernelFault, match=says) as error:
        found.run(1, 8, [np.zeros(8), given], order=order)
    assert str(error.value).startswith("k: ")
    out = np.zeros(8)  # the kernel can run again after a fault
    kernel(f"{STEP} ld.global.f64 %d, [%q]; st.global.f64 [%p], 0d3FF0000000000000;").run(1, 8, [out, given])
    assert out.tolist() == [1.0] * 8


def test_a_missing_barrier_shows_in_another_order() -> None:
    body = """
    .reg .b32 %s; shl.b32 %x, %t, 2; mov.u32 %s, room; add.s32 %s, %s, %x; st.shared.u32 [%s], %t;
    xor.b32 %x, %x, 4; mov.u32 %s, room; add.s32 %s, %s, %x; ld.shared.u32 %y, [%s]; mul.wide.u32 %p, %t, 4; add.s64 %p, %o, %p;
    st.global.u32 [%p], %y;
    """
    results = []
    for order in ORDERS:
        out = np.zeros(8, "u4")
        kernel(body, before=".shared .align 4 .b8 room[32];").run(1, 8, [out, out], order=order)
        results.append(out.tolist())
    assert results[0] != results[1]
