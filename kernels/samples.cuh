// What makes a count missing, dead or saturated (docs/physics.md, 5.1 and 6.2).
#pragma once
#include "calib.cuh"

// The rule of one array of counts.
//   fill        value of a missing integer sample, as its 64 bits; has_fill 0: there is none. Missing floats are NaN
//   floor       counts <= floor are dead: 0, or -Inf where zero and negative counts are valid
//   saturation  counts >= saturation are saturated; +Inf: no limit
//   n_dump      dumps that hold data; later ones are padding, whatever they hold
struct CgRule {
  cg_uint64 fill;
  int has_fill;
  double floor;
  double saturation;
  int n_dump;
};

CG_FN CgRule cg_rule(cg_uint64 fill, int has_fill, double floor, double saturation, int n_dump) {
  CgRule rule;
  rule.fill = fill;
  rule.has_fill = has_fill;
  rule.floor = floor;
  rule.saturation = saturation;
  rule.n_dump = n_dump;
  return rule;
}

// How a type of counts is compared and summed: integers exactly, floats in float64. A float32 count is compared with the
// float32 next to a limit, as NumPy does with a Python number.
template <typename T> struct CgCount {
  typedef cg_int64 sum_t;
  typedef double compare_t;
  CG_FN static bool missing(T count, const CgRule &rule) { return rule.has_fill && cg_uint64(cg_int64(count)) == rule.fill; }
  CG_FN static bool finite(T) { return true; }
  CG_FN static cg_int64 widen(T count) { return count; }
};
template <> struct CgCount<float> {
  typedef double sum_t;
  typedef float compare_t;
  CG_FN static bool missing(float count, const CgRule &) { return count != count; }
  CG_FN static bool finite(float count) { return cg_finite(count); }
  CG_FN static double widen(float count) { return cg_double(count); }
};
template <> struct CgCount<double> {
  typedef double sum_t;
  typedef double compare_t;
  CG_FN static bool missing(double count, const CgRule &) { return count != count; }
  CG_FN static bool finite(double count) { return cg_finite(count); }
  CG_FN static double widen(double count) { return count; }
};

// No sample: the fill value or NaN, or a dump of the padding.
template <typename T> CG_FN bool cg_missing(T count, int dump, const CgRule &rule) {
  return dump >= rule.n_dump || CgCount<T>::missing(count, rule);
}

// Dead or saturated; false for NaN and Inf.
template <typename T> CG_FN bool cg_invalid(T count, const CgRule &rule) {
  typedef typename CgCount<T>::compare_t compare_t;
  double value = cg_double(count);
  return (value <= rule.floor || value >= double(compare_t(rule.saturation))) && CgCount<T>::finite(count);
}

// May enter a mean: present, finite, not dead, not saturated.
template <typename T> CG_FN bool cg_valid(T count, int dump, const CgRule &rule) {
  return !cg_missing(count, dump, rule) && !cg_invalid(count, rule) && CgCount<T>::finite(count);
}

// Valid samples in the low half, missing ones in the high half: two exact sums in one reduction over the channels.
template <typename T> CG_FN cg_int64 cg_census(T count, int dump, const CgRule &rule) {
  return cg_int64(cg_valid(count, dump, rule)) + (cg_int64(cg_missing(count, dump, rule)) << 32);
}

// First dump in which a pixel has any valid channel, 0 if there is none. `valid` [D] samples of the pixel.
CG_FN int cg_first_dump(const cg_int64 *valid, int n_total) {
  for (int d = 0; d < n_total; ++d) {
    if (valid[d] > 0) {
      return d;
    }
  }
  return 0;
}

// Sum over the valid dumps of one channel, in ascending order; how many they are; the count of the first dump (NaN: not valid).
// `counts` [D] of the channel.
template <typename T>
CG_FN void cg_dump_sums(const T *counts, int n_total, int first_dump, const CgRule &rule, double *total, cg_int64 *valid,
                        double *first) {
  typename CgCount<T>::sum_t sum = 0;
  cg_int64 n = 0;
  for (int d = 0; d < n_total; ++d) {
    T count = counts[d];
    if (cg_valid(count, d, rule)) {
      sum += CgCount<T>::widen(count);
      ++n;
    }
  }
  *total = double(sum);
  *valid = n;
  T count = counts[first_dump];
  *first = cg_valid(count, first_dump, rule) ? cg_double(count) : cg_nan();
}

// Mean over the valid channels of one dump, in ascending order; NaN without any. `counts` points at the first channel,
// `stride` elements lie between channels.
template <typename T>
CG_FN double cg_band_mean(const T *counts, cg_int64 n_channel, cg_int64 stride, int dump, const CgRule &rule) {
  double sum = 0.0;
  cg_int64 n = 0;
  for (cg_int64 c = 0; c < n_channel; ++c) {
    T count = counts[c * stride];
    if (cg_valid(count, dump, rule)) {
      sum += cg_double(count);
      ++n;
    }
  }
  return n ? sum / double(n) : cg_nan();
}
