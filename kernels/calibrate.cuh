// T_A* and flags of one sample: (on - ref) * factor, and why there is no value (docs/physics.md, 3.1 and 6.2).
#pragma once
#include "samples.cuh"

// Flag bits, as schema.Flag.
#define CG_FILL_VALUE 2u
#define CG_INVALID_COUNT 512u
#define CG_NONFINITE 2048u

// (on - ref) * factor [K], rounded to a multiple of `quantum` (a power of two; 0: not rounded), half to even.
// Values of 2^53 quanta and more are whole multiples already and are kept as they are.
CG_FN double cg_antenna_temperature(double on, double ref, double factor, double quantum) {
  double value = (on - ref) * factor;
  if (quantum != 0.0) {
    double rounded = rint((on - ref) * (factor / quantum)) * quantum;
    double size = value < 0.0 ? -value : value;
    if (size < quantum * 9007199254740992.0) {
      value = rounded;
    }
  }
  return value;
}

// Value and flags of one sample. `base` are the flags of its channel (BAD_CHANNEL, NO_REFERENCE, OPAQUE).
//   on      count as stored;   ref   counts;   factor   K/count, transmission included
template <typename Count, typename Spectrum>
CG_FN Spectrum cg_calibrate_sample(Count on, int dump, double ref, double factor, double quantum, cg_flags base,
                                   const CgRule &rule, cg_flags *flags) {
  unsigned int marks = base;
  if (cg_missing(on, dump, rule)) {
    marks |= CG_FILL_VALUE;
  } else if (cg_invalid(on, rule)) {
    marks |= CG_INVALID_COUNT;
  }
  Spectrum value = CgNarrow<Spectrum>::value(cg_antenna_temperature(cg_double(on), ref, factor, quantum));
  if (marks == 0 && !cg_finite(value)) {
    marks = CG_NONFINITE;
  }
  *flags = cg_flags(marks);
  return marks ? CgNan<Spectrum>::value() : value;
}
