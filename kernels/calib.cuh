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

// False for NaN and for +-Inf.
template <typename T> CG_FN bool cg_finite(T x) { return x - x == T(0); }
