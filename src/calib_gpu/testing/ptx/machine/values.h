/* What the arithmetic of PTX means, in C. Compiled without contraction and without fast-math.
   Source: NVIDIA, PTX ISA; IEEE 754. Payloads of float64 NaNs are those of the host. */
#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static inline double as_f64(uint64_t x) { double d; memcpy(&d, &x, 8); return d; }
static inline uint64_t bits_f64(double d) { uint64_t x; memcpy(&x, &d, 8); return x; }
static inline float as_f32(uint32_t x) { float f; memcpy(&f, &x, 4); return f; }
static inline uint32_t bits_f32(float f) { uint32_t x; memcpy(&x, &f, 4); return x; }

/* float32: subnormals to zero with their sign; the one NaN; the range 0 to 1 */
static inline float flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
static inline float one_nan(float x) { return x != x ? as_f32(0x7fffffffu) : x; }
static inline float saturate(float x) { return !(x > 0.0f) ? 0.0f : x > 1.0f ? 1.0f : x; }
static inline double saturate_f64(double x) { return !(x > 0.0) ? 0.0 : x > 1.0 ? 1.0 : x; }

/* operations with one rounding: rn is the host's own, the others change its mode around the operation */
#define DIRECTED(NAME, MODE, OUT, PARAMETERS, EXPRESSION)                                             \
    __attribute__((noinline, unused)) static OUT NAME PARAMETERS {                                    \
        int before = fegetround(); fesetround(MODE);                                                  \
        volatile OUT value = (EXPRESSION); fesetround(before); return value; }
#define ROUNDED(NAME, KIND, OUT, PLAIN, VOLATILE, EXPRESSION)                                         \
    static inline OUT NAME##_rn_##KIND PLAIN { return (EXPRESSION); }                                 \
    DIRECTED(NAME##_rz_##KIND, FE_TOWARDZERO, OUT, VOLATILE, EXPRESSION)                              \
    DIRECTED(NAME##_rm_##KIND, FE_DOWNWARD, OUT, VOLATILE, EXPRESSION)                                \
    DIRECTED(NAME##_rp_##KIND, FE_UPWARD, OUT, VOLATILE, EXPRESSION)
#define OF_ONE(NAME, KIND, OUT, IN, EXPRESSION) ROUNDED(NAME, KIND, OUT, (IN a), (volatile IN a), EXPRESSION)
#define OF_TWO(NAME, KIND, T, EXPRESSION) ROUNDED(NAME, KIND, T, (T a, T b), (volatile T a, volatile T b), EXPRESSION)
#define OF_THREE(NAME, KIND, T, EXPRESSION) \
    ROUNDED(NAME, KIND, T, (T a, T b, T c), (volatile T a, volatile T b, volatile T c), EXPRESSION)
OF_TWO(add, f64, double, a + b)
OF_TWO(add, f32, float, a + b)
OF_TWO(sub, f64, double, a - b)
OF_TWO(sub, f32, float, a - b)
OF_TWO(mul, f64, double, a * b)
OF_TWO(mul, f32, float, a * b)
OF_TWO(div, f64, double, a / b)
OF_TWO(div, f32, float, a / b)
OF_THREE(fma, f64, double, fma(a, b, c))
OF_THREE(fma, f32, float, fmaf(a, b, c))
OF_ONE(sqrt, f64, double, double, sqrt(a))
OF_ONE(sqrt, f32, float, float, sqrtf(a))
OF_ONE(rcp, f64, double, double, 1.0 / a)
OF_ONE(rcp, f32, float, float, 1.0f / a)
OF_ONE(narrow, f32, float, double, (float)a)
OF_ONE(from_s64, f64, double, int64_t, (double)a)
OF_ONE(from_u64, f64, double, uint64_t, (double)a)
OF_ONE(from_s64, f32, float, int64_t, (float)a)
OF_ONE(from_u64, f32, float, uint64_t, (float)a)

/* approximations: the device has its own last bits; rcp.ftz and rsqrt.ftz of
   float64, the seeds of Newton steps, look at and give the upper 32 bits only */
static inline float ex2_approx_f32(float x) { return (float)exp2((double)x); }
static inline float lg2_approx_f32(float x) { return (float)log2((double)x); }
static inline float sin_approx_f32(float x) { return (float)sin((double)x); }
static inline float cos_approx_f32(float x) { return (float)cos((double)x); }
static inline float tanh_approx_f32(float x) { return (float)tanh((double)x); }
static inline float div_approx_f32(float a, float b) { return a / b; }
static inline float sqrt_approx_f32(float x) { return sqrtf(x); }
static inline float rcp_approx_f32(float x) { return 1.0f / x; }
static inline float rsqrt_approx_f32(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline double upper(double x) { return as_f64(bits_f64(x) & 0xffffffff00000000ull); }
static inline double flush_f64(double x) { return fabs(x) < 0x1p-1022 ? copysign(0.0, x) : x; }
static inline double seed(double x) { return x != x ? NAN : upper(flush_f64(x)); }
static inline double rcp_seed_f64(double x) { return seed(1.0 / flush_f64(upper(x))); }
static inline double rsqrt_seed_f64(double x) { return seed(1.0 / sqrt(flush_f64(upper(x)))); }
static inline double rsqrt_approx_f64(double x) { return 1.0 / sqrt(x); }

static inline double neg_f64(double x) { return as_f64(bits_f64(x) ^ 0x8000000000000000ull); }
static inline float neg_f32(float x) { return as_f32(bits_f32(x) ^ 0x80000000u); }
static inline double abs_f64(double x) { return as_f64(bits_f64(x) & 0x7fffffffffffffffull); }
static inline float abs_f32(float x) { return as_f32(bits_f32(x) & 0x7fffffffu); }

/* the lesser and the greater: a number wins over NaN (in _nan it does not), -0 is less than +0 */
#define EXTREMES(T, KIND, QUIET)                                                                          \
    static inline T min_##KIND(T a, T b) {                                                                \
        if (a != a) return b != b ? QUIET : b;                                                            \
        return b != b ? a : a == b ? (signbit(a) ? a : b) : a < b ? a : b; }                              \
    static inline T max_##KIND(T a, T b) {                                                                \
        if (a != a) return b != b ? QUIET : b;                                                            \
        return b != b ? a : a == b ? (signbit(a) ? b : a) : a > b ? a : b; }                              \
    static inline T min_nan_##KIND(T a, T b) { return a != a || b != b ? QUIET : min_##KIND(a, b); }      \
    static inline T max_nan_##KIND(T a, T b) { return a != a || b != b ? QUIET : max_##KIND(a, b); }
EXTREMES(double, f64, as_f64(0x7fffffffffffffffull))
EXTREMES(float, f32, as_f32(0x7fffffffu))

#define unordered(A, B) isunordered(A, B)
#define is_finite(X) (isfinite(X) != 0)
#define is_infinite(X) (isinf(X) != 0)
#define is_number(X) (!isnan(X))
#define is_notanumber(X) (isnan(X) != 0)
#define is_normal(X) (isnormal(X) != 0)
#define is_subnormal(X) (fpclassify(X) == FP_SUBNORMAL)

/* clamped integers; whole floats to integers, NaN to 0 or to the top bit alone */
static inline int32_t clamp_s32(int64_t x) { return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : (int32_t)x; }
#define CLAMPS(KIND, T, LEAST, MOST, NOT_A_NUMBER)                                                        \
    static inline T clamp_s_##KIND(int64_t x) {                                                           \
        return (LEAST) < 0 ? (x < (int64_t)(LEAST) ? (T)(LEAST) : x > (int64_t)(MOST) ? (T)(MOST) : (T)x)  \
                           : (x < 0 ? 0 : (uint64_t)x > (uint64_t)(MOST) ? (T)(MOST) : (T)x); }           \
    static inline T clamp_u_##KIND(uint64_t x) { return x > (uint64_t)(MOST) ? (T)(MOST) : (T)x; }        \
    static inline T to_##KIND(double x, int top_bit) {                                                    \
        if (x != x) return top_bit ? (T)(NOT_A_NUMBER) : 0;                                               \
        return x <= (double)(LEAST) ? (T)(LEAST) : x >= (double)(MOST) ? (T)(MOST) : (T)x; }
CLAMPS(s8, int8_t, INT8_MIN, INT8_MAX, INT8_MIN)
CLAMPS(s16, int16_t, INT16_MIN, INT16_MAX, INT16_MIN)
CLAMPS(s32, int32_t, INT32_MIN, INT32_MAX, INT32_MIN)
CLAMPS(s64, int64_t, INT64_MIN, INT64_MAX, INT64_MIN)
CLAMPS(u8, uint8_t, 0, UINT8_MAX, 0x80u)
CLAMPS(u16, uint16_t, 0, UINT16_MAX, 0x8000u)
CLAMPS(u32, uint32_t, 0, UINT32_MAX, 0x80000000u)
CLAMPS(u64, uint64_t, 0, UINT64_MAX, 0x8000000000000000ull)

/* bits */
static inline uint32_t popc_b32(uint32_t x) { return (uint32_t)__builtin_popcount(x); }
static inline uint32_t popc_b64(uint64_t x) { return (uint32_t)__builtin_popcountll(x); }
static inline uint32_t clz_b32(uint32_t x) { return x ? (uint32_t)__builtin_clz(x) : 32u; }
static inline uint32_t clz_b64(uint64_t x) { return x ? (uint32_t)__builtin_clzll(x) : 64u; }
static inline uint64_t brev_b64(uint64_t x) { uint64_t y = 0; for (int i = 0; i < 64; i++) y |= (x >> i & 1u) << (63 - i); return y; }
static inline uint32_t brev_b32(uint32_t x) { return (uint32_t)(brev_b64(x) >> 32); }
static inline uint32_t bfind(uint64_t x, uint32_t width, int shift_amount) {
    if (width == 32) x &= 0xffffffffull;
    if (!x) return 0xffffffffu;
    uint32_t top = 63u - (uint32_t)__builtin_clzll(x);
    return shift_amount ? width - 1u - top : top; }
static inline uint64_t field(uint32_t length) { return length >= 64 ? ~0ull : (1ull << length) - 1ull; }
static inline uint64_t bfe(uint64_t x, uint32_t start, uint32_t length, uint32_t width, int is_signed) {
    start &= 0xffu; length &= 0xffu;
    if (!length) return 0;
    uint32_t last = start + length - 1u < width - 1u ? start + length - 1u : width - 1u;
    uint64_t sign = is_signed && x >> last & 1u ? ~0ull : 0ull;
    if (start >= width) return sign;
    uint64_t mask = field(last - start + 1u);
    return (x >> start & mask) | (sign & ~mask); }
static inline uint32_t bfe_u32(uint32_t x, uint32_t s, uint32_t n) { return (uint32_t)bfe(x, s, n, 32u, 0); }
static inline int32_t bfe_s32(int32_t x, uint32_t s, uint32_t n) { return (int32_t)bfe((uint32_t)x, s, n, 32u, 1); }
static inline uint64_t bfe_u64(uint64_t x, uint32_t s, uint32_t n) { return bfe(x, s, n, 64u, 0); }
static inline int64_t bfe_s64(int64_t x, uint32_t s, uint32_t n) { return (int64_t)bfe((uint64_t)x, s, n, 64u, 1); }
static inline uint64_t bfi(uint64_t a, uint64_t b, uint32_t start, uint32_t length, uint32_t width) {
    start &= 0xffu; length &= 0xffu;
    if (start >= width) return b;
    uint64_t mask = field(length) << start;
    return (b & ~mask) | (a << start & mask); }
static inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t chosen) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t which = chosen >> 4 * i & 0xfu;
        uint32_t byte = (uint32_t)(bytes >> 8 * (which & 7u)) & 0xffu;
        value |= (which & 8u ? (byte & 0x80u ? 0xffu : 0u) : byte) << 8 * i; }
    return value; }
static inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
    uint32_t value = 0;
    for (uint32_t i = 0; i < 8; i++)
        if (table >> i & 1u) value |= (i & 4u ? a : ~a) & (i & 2u ? b : ~b) & (i & 1u ? c : ~c);
    return value; }
