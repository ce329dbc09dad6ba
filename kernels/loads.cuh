// Load calibration of a channel: G, gamma, T_rec and the bad-channel rules (docs/physics.md, 3.1, 3.2 and 3.5).
//
//   hot, cold, zero   mean counts of the loads and of no input
//   h_s, h_i, c_s, c_i   power of HOT and COLD in the signal and the image band [K, Rayleigh-Jeans]
//   g_s, g_i          normalised sideband gains;   eta_f   forward efficiency
#pragma once
#include "calib.cuh"

// DT' = T'_h - T'_c, sideband-weighted [K].
CG_FN double cg_load_contrast(double g_s, double g_i, double h_s, double h_i, double c_s, double c_i) {
  return g_s * (h_s - c_s) + g_i * (h_i - c_i);
}

// G, eq. (5) [counts/K].
CG_FN double cg_gain(double hot, double cold, double contrast) { return (hot - cold) / contrast; }

// gamma, eq. (6) [K].
CG_FN double cg_gamma(double contrast, double g_s, double eta_f) { return contrast / (g_s * eta_f); }

// T_rec,DSB, eq. (8) [K].
CG_FN double cg_receiver_temperature(double hot, double cold, double zero, double t_hot, double t_cold) {
  return (t_hot * (cold - zero) - t_cold * (hot - zero)) / (hot - cold);
}

// Rules 1 and 2: not finite, dead, saturated, or HOT not above COLD.
CG_FN bool cg_bad_counts(double hot, double cold, double saturation) {
  double difference = hot - cold;
  if (!(cg_finite(hot) && cg_finite(cold) && cg_finite(difference))) {
    return true;
  }
  return hot <= 0.0 || cold <= 0.0 || hot >= saturation || cold >= saturation || hot <= cold;
}

// Running mean of odd width over the finite values, cut off at the ends; NaN where none is finite. `values` [n].
CG_FN double cg_running_mean(const double *values, cg_int64 n, cg_int64 at, int width) {
  cg_int64 first = at - width / 2 > 0 ? at - width / 2 : 0;
  cg_int64 last = at + width / 2 + 1 < n ? at + width / 2 + 1 : n;
  double sum = 0.0;
  int count = 0;
  for (cg_int64 j = first; j < last; ++j) {
    if (cg_finite(values[j])) {
      sum += values[j];
      ++count;
    }
  }
  return count ? sum / count : cg_nan();
}

// Rules 3 and 4: HOT - COLD far below its smoothed maximum (-Inf: unknown), or T_rec not positive.
CG_FN bool cg_bad_contrast(double difference, double clip_counts, double smooth_max, double trec_ssb) {
  return difference < clip_counts * smooth_max || !(trec_ssb > 0.0);
}

// Place of value `at` among those with bad == 0, in ascending order; equal values in the order of their channels.
CG_FN cg_int64 cg_rank(const double *values, const unsigned char *bad, cg_int64 n, cg_int64 at) {
  double own = values[at];
  cg_int64 below = 0;
  for (cg_int64 j = 0; j < n; ++j) {
    below += !bad[j] && (values[j] < own || (values[j] == own && j < at));
  }
  return below;
}

// Rules 5 and 6: T_rec far above the median of the channels that passed so far, or at the edge of the band.
CG_FN bool cg_bad_trec(double trec_ssb, double clip_trec, double low, double high, cg_int64 n_good, cg_int64 channel,
                       cg_int64 n_channel, cg_int64 edge) {
  bool outlier = n_good > 0 && trec_ssb > clip_trec * (0.5 * (low + high));
  return outlier || channel < edge || channel >= n_channel - edge;
}
