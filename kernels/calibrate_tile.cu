// T_A* and flags of a tile, one pass: 4 bytes in and 10 out per sample for int32 counts and float64 spectra.
//
// Compiled once for each pair of COUNT (type of the counts) and SPECTRUM (type of the spectra).
//
// buffer    axes              type        meaning
// counts    [P, C, D]         COUNT       counts as stored; P pixels, any strides (in elements)
// ref       [P, C]            float64     reference, counts
// factor    [P, C]            float64     K/count, transmission included
// base      [P, C]            uint16      flags of all dumps of a channel
// quantum   [P]               float64     power of two to whose multiples T_A* is rounded, 0: none [K]
// spectra   [P, B, C, d]      SPECTRUM    T_A* [K]: dumps in B blocks of d, what is left of the last is NaN; any strides
// flags     [P, B, C, d]      uint16      flags, 0 in the padding; strides as spectra
// totals    [P, 17]           uint64      samples with each bit set, and with any; added to what is there
// present   [D]               uint8       1 for dumps that hold any sample; others are left as they are
//
// A thread takes 4 dumps of one channel and block; threads run through the dumps of a channel first, so that a warp reads
// consecutive counts. Loads and stores are 16 bytes wide where places and strides allow it.
#include "calibrate.cuh"

typedef COUNT count_t;
typedef SPECTRUM spectrum_t;

// The dumps of a thread, unrolled: they stay in registers.
#define CG_EACH(k) _Pragma("unroll") for (int k = 0; k < CG_QUAD; ++k)

// The dumps of a thread in pieces of at most 16 bytes, each one load or store.
template <typename T> struct CgPieces {
  static const int length = 16 / sizeof(T) < CG_QUAD ? 16 / sizeof(T) : CG_QUAD;
  static const int count = CG_QUAD / length;
  static const unsigned int bytes = length * sizeof(T);
  struct alignas(length * sizeof(T)) Piece {
    T v[length];
  };
};

template <typename T> CG_FN bool cg_aligned(const T *p, unsigned int bytes) {
  return (reinterpret_cast<cg_uint64>(p) & (bytes - 1)) == 0;
}

template <typename T> CG_FN void cg_load_quad(const T *from, T *to) {
  typedef CgPieces<T> pieces;
#pragma unroll
  for (int w = 0; w < pieces::count; ++w) {
    typename pieces::Piece part = reinterpret_cast<const typename pieces::Piece *>(from)[w];
#pragma unroll
    for (int k = 0; k < pieces::length; ++k) to[w * pieces::length + k] = part.v[k];
  }
}

template <typename T> CG_FN void cg_store_quad(const T *from, T *to) {
  typedef CgPieces<T> pieces;
#pragma unroll
  for (int w = 0; w < pieces::count; ++w) {
    typename pieces::Piece part;
#pragma unroll
    for (int k = 0; k < pieces::length; ++k) part.v[k] = from[w * pieces::length + k];
    reinterpret_cast<typename pieces::Piece *>(to)[w] = part;
  }
}

// Note the dumps that hold a sample. They are noted by others before in nearly all cases: then nothing is written.
CG_FN void cg_mark_present(unsigned char *present, int n, const cg_flags *mark) {
  if (n == CG_QUAD && cg_aligned(present, CG_QUAD)) {
    unsigned char seen[CG_QUAD], all = 1;
    cg_load_quad(present, seen);
    CG_EACH(k) all &= seen[k];
    if (all) return;
  }
  CG_EACH(k) {
    if (k < n && !(mark[k] & CG_FILL_VALUE) && !present[k]) present[k] = 1;
  }
}

extern "C" __global__ void calibrate_tile(
    const count_t *__restrict__ counts, const double *__restrict__ ref, const double *__restrict__ factor,
    const cg_flags *__restrict__ base, const double *__restrict__ quantum, spectrum_t *__restrict__ spectra,
    cg_flags *__restrict__ flags, cg_uint64 *totals, unsigned char *present, cg_int64 n_channel, int n_dump, int n_block,
    int block, cg_int64 in_pixel, cg_int64 in_channel, cg_int64 in_dump, cg_int64 out_pixel, cg_int64 out_block,
    cg_int64 out_channel, cg_int64 out_dump, cg_uint64 fill, int has_fill, double floor_, double saturation, int n_valid) {
  const CgRule rule = cg_rule(fill, has_fill, floor_, saturation, n_valid);
  const unsigned int quads = (block + CG_QUAD - 1) / CG_QUAD;
  const unsigned int at = blockIdx.x * blockDim.x + threadIdx.x;  // a pixel of one subscan has fewer than 2^31 samples
  const unsigned int channel_quads = quads * n_block;
  const unsigned int c = at / channel_quads;
  if (c >= n_channel) {
    return;
  }
  const unsigned int rest = at - c * channel_quads;
  const int b = rest / quads;
  const int in_block = (rest - b * quads) * CG_QUAD;
  const int d = b * block + in_block;  // first dump of the quad
  const cg_int64 p = blockIdx.y;
  const int width = block - in_block < CG_QUAD ? block - in_block : CG_QUAD;  // places in this block
  int n = n_dump - d;                                                          // dumps among them; the others are padding
  n = n < 0 ? 0 : n > width ? width : n;

  count_t on[CG_QUAD];
  const count_t *from = counts + p * in_pixel + c * in_channel + d * in_dump;
  if (n == CG_QUAD && in_dump == 1 && cg_aligned(from, CgPieces<count_t>::bytes)) {
    cg_load_quad(from, on);
  } else {
    CG_EACH(k) on[k] = k < n ? from[k * in_dump] : count_t(0);
  }

  const cg_int64 channel = p * n_channel + c;
  const double own_ref = ref[channel], own_factor = factor[channel], own_quantum = quantum[p];
  const cg_flags own_base = base[channel];
  spectrum_t value[CG_QUAD];
  cg_flags mark[CG_QUAD];
  unsigned int any = 0;
  CG_EACH(k) {
    if (k < n) {
      value[k] = cg_calibrate_sample<count_t, spectrum_t>(on[k], d + k, own_ref, own_factor, own_quantum, own_base, rule, &mark[k]);
      any |= mark[k];
    } else {
      value[k] = CgNan<spectrum_t>::value();
      mark[k] = 0;
    }
  }

  cg_mark_present(present + d, n, mark);

  const cg_int64 place = p * out_pixel + b * out_block + c * out_channel + in_block * out_dump;
  if (width == CG_QUAD && out_dump == 1 && cg_aligned(spectra + place, CgPieces<spectrum_t>::bytes) &&
      cg_aligned(flags + place, CgPieces<cg_flags>::bytes)) {
    cg_store_quad(value, spectra + place);
    cg_store_quad(mark, flags + place);
  } else {
    CG_EACH(k) {
      if (k < width) {
        spectra[place + k * out_dump] = value[k];
        flags[place + k * out_dump] = mark[k];
      }
    }
  }

  if (any) {  // integer sums: their order does not matter
    unsigned int marked = 0;
    CG_EACH(k) marked += mark[k] != 0;
    atomicAdd(totals + p * 17 + 16, cg_uint64(marked));
    for (int bit = 0; bit < 16; ++bit) {
      if (any >> bit & 1) {
        unsigned int set = 0;
        CG_EACH(k) set += mark[k] >> bit & 1;
        atomicAdd(totals + p * 17 + bit, cg_uint64(set));
      }
    }
  }
}
