// What all device functions share: how they are declared, NaN, and what is finite.
//
// The same text is compiled by NVRTC for the GPU and by g++ for the tests (there CG_FN is plain `inline`).
// Everything is float64, with one rounding per operation: the kernels are compiled with --fmad=false, so that + - * / and
// sqrt give the bits that NumPy gives.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define CG_FN __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#define CG_FN inline
#endif

typedef long long cg_int64;
typedef unsigned long long cg_uint64;
typedef unsigned short cg_flags;

// The quiet NaN that NumPy writes, bit for bit.
CG_FN double cg_nan() {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  return __longlong_as_double(0x7ff8000000000000LL);
#else
  return std::nan("");
#endif
}

CG_FN float cg_nan_f() {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  return __int_as_float(0x7fc00000);
#else
  return std::nanf("");
#endif
}

template <typename T> struct CgNan;
template <> struct CgNan<double> {
  CG_FN static double value() { return cg_nan(); }
};
template <> struct CgNan<float> {
  CG_FN static float value() { return cg_nan_f(); }
};

CG_FN unsigned int cg_bits(float x) {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  return __float_as_uint(x);
#else
  unsigned int bits;
  std::memcpy(&bits, &x, 4);
  return bits;
#endif
}

CG_FN float cg_from_bits(unsigned int bits) {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  return __uint_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
#endif
}

// Between float32 and float64 without loss of subnormal numbers: CuPy compiles with -ftz=true, which takes them for 0.
CG_FN double cg_double(float x) {
  unsigned int bits = cg_bits(x);
  if ((bits & 0x7f800000u) != 0) {
    return double(x);
  }
  double size = double(bits & 0x007fffffu) * 1.401298464324817e-45;  // 2^-149
  return bits >> 31 ? -size : size;
}
template <typename T> CG_FN double cg_double(T x) { return double(x); }

template <typename T> struct CgNarrow;
template <> struct CgNarrow<double> {
  CG_FN static double value(double x) { return x; }
};
template <> struct CgNarrow<float> {
  CG_FN static float value(double x) {
    double size = x < 0.0 ? -x : x;
    if (!(size < 1.1754943508222875e-38)) {  // 2^-126; NaN too
      return float(x);
    }
    unsigned int bits = (unsigned int)(rint(size * 7.136238463529799e44));  // 2^149
    return cg_from_bits(bits | (x < 0.0 || 1.0 / x < 0.0 ? 0x80000000u : 0u));
  }
};

// False for NaN and for +-Inf.
template <typename T> CG_FN bool cg_finite(T x) { return x - x == T(0); }
