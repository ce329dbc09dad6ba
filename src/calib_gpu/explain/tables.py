"""An explanation as tables of text."""

from __future__ import annotations

from calib_gpu.explain.reasons import names
from calib_gpu.explain.sample import Explanation
from calib_gpu.explain.steps import J_OF, Step
from calib_gpu.inspection import Table
from calib_gpu.schema import AXES


def tables(made: Explanation) -> list[Table]:
    """Where the sample is, the steps part by part, and the result with its flags."""
    place = made.place
    where = [(axis, str(getattr(place, axis.lower())), AXES[axis]) for axis in "CDRAS"]
    where.append(("", str(made.subscan), "number of the subscan in L0"))
    out = [Table(f"{made.scan}: the sample", ("axis", "index", "meaning"), where, made.notes)]
    for title, steps in made.parts:
        notes = (J_OF,) if any("J(" in step.formula for step in steps) else ()
        if title == "result" and made.flags:
            notes = ("T_A is what the arithmetic gives; the sample is flagged, so that NaN is written",)
        rows = [(step.symbol, repr(step.value), step.unit, _how(step)) for step in steps]
        out.append(Table(title, ("symbol", "exact value", "unit", "how"), rows, notes))
    result = [("written", repr(made.written), f"{made.flags} ({names(made.flags)})")]
    if made.l1 is not None:
        result.append(("held by L1", repr(made.l1[0]), f"{made.l1[1]} ({names(made.l1[1])})"))
    out.append(Table("T_A*", ("", "K", "flags"), result))
    if made.reasons:
        out.append(Table("why it is flagged", ("flag", "reason"), list(made.reasons)))
    return out


def _how(step: Step) -> str:
    return f"= {step.formula}" if step.formula else step.source
