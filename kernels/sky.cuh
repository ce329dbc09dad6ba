// The sky signal, its sums over pixels, and chi2 of the water vapour (docs/physics.md, 4.3 to 4.5).
#pragma once
#include "calib.cuh"

// S_H,obs, eq. (12) [K].
CG_FN double cg_sky_signal(double off, double hot, double gain) { return (off - hot) / gain; }

// Sums over pixels that make chi2 at any PWV; arrays [OFF, channel], see physics/sky_sums.py.
struct CgSums {
  double *yy, *ys, *yi, *ss, *si, *ii, *w;
  cg_int64 *n;
};

// Add one datum: y = S_obs - K0 with coefficients A_s, A_i and weight; `bad` or not finite: nothing is added.
CG_FN void cg_add_datum(const CgSums &sums, cg_int64 at, double observed, bool bad, double weight, double k0, double a_s,
                        double a_i) {
  bool use = !bad && cg_finite(observed);
  double w = use ? weight : 0.0;
  double y = use ? observed - k0 : 0.0;
  double wy = w * y;
  sums.yy[at] += wy * y;
  sums.ys[at] += wy * a_s;
  sums.yi[at] += wy * a_i;
  sums.ss[at] += w * (a_s * a_s);
  sums.si[at] += w * (a_s * a_i);
  sums.ii[at] += w * (a_i * a_i);
  sums.w[at] += w;
  sums.n[at] += use;
}

// chi2 of one OFF and channel as two squares of (1, q_s, q_i) and a constant (Cholesky):
// (m1 + r1 q_s + l21 q_i)^2 + (m2 + r2 q_i)^2 + constant. Without image band r1 alone counts.
struct CgSquares {
  double m1, r1, l21, m2, r2, constant;
};

// Share of the second square below which it is rounding.
#define CG_SAME_GAINS 1e-13

CG_FN CgSquares cg_squares(double yy, double ys, double yi, double ss, double si, double ii, bool has_image) {
  CgSquares out;
  out.r1 = sqrt(ss);
  double inverse = out.r1 > 0.0 ? 1.0 / out.r1 : 0.0;
  out.m1 = ys * inverse;
  out.constant = yy - out.m1 * out.m1;
  out.l21 = out.m2 = out.r2 = 0.0;
  if (has_image) {
    out.l21 = si * inverse;
    double rest = ii - out.l21 * out.l21;
    out.r2 = rest <= CG_SAME_GAINS * ii ? 0.0 : sqrt(rest);
    inverse = out.r2 > 0.0 ? 1.0 / out.r2 : 0.0;
    out.m2 = (yi - out.l21 * out.m1) * inverse;
    out.constant = out.constant - out.m2 * out.m2;
  }
  return out;
}

// q of a slab: the transmission exp(-X (b w + c)).
CG_FN double cg_slab(double b, double c, double w, double x) { return exp(-x * (b * w + c)); }

// q interpolated between nodes in ln w: `values` [tap], `stride` elements from node to node, `weights` [tap] of a grid point.
CG_FN double cg_at_nodes(const double *values, cg_int64 stride, const double *weights, int taps) {
  double sum = 0.0;
  for (int k = 0; k < taps; ++k) {
    sum += weights[k] * values[k * stride];
  }
  return sum;
}

// Both squares at q_s and q_i.
CG_FN double cg_chi2_term(double m1, double r1, double l21, double m2, double r2, double q_s, double q_i) {
  double first = (q_i * l21 + m1) + q_s * r1;
  double second = q_i * r2 + m2;
  return first * first + second * second;
}
