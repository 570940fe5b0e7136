#include "sum_tree.h"

#include "simd_math.h"

namespace optix_fast {
namespace {

typedef double V4 __attribute__((vector_size(32)));
typedef float F4 __attribute__((vector_size(16)));

V4 load4(const double* p) {
  V4 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

V4 load4(const float* p) {
  F4 v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, V4);
}

double add_lanes(V4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
double line_sum(const double* line) { return add_lanes(load4(line) + load4(line + 4)); }
double line_sum(const float* line) {
  return add_lanes((load4(line) + load4(line + 8)) + (load4(line + 4) + load4(line + 12)));
}

// Where a mass x falls in a line: the first child whose inclusive prefix sum exceeds it, and the sum before.
struct Place {
  int child;
  double before;
};

// Where x lies behind the last prefix sum, by rounding.
template <typename T>
__attribute__((noinline, cold)) int last_positive(const T* line, int children) {
  int child = children - 1;
  while (child > 0 && !(line[child] > T(0))) --child;
  return child;
}

#ifdef __AVX512F__

__m512d prefix_of_eight(__m512d a) {
  const __m512d pairs = _mm512_add_pd(a, _mm512_maskz_movedup_pd(0xAA, a));
  const __m512d fours = _mm512_add_pd(pairs, _mm512_maskz_permutex_pd(0xCC, pairs, 0x55));
  return _mm512_add_pd(fours, _mm512_maskz_permutexvar_pd(0xF0, _mm512_set1_epi64(3), fours));
}

Place place_of(const double* line, double x) {
  const __m512d prefix = prefix_of_eight(_mm512_load_pd(line));
  const __mmask8 behind = _mm512_cmp_pd_mask(prefix, _mm512_set1_pd(x), _CMP_GT_OQ);
  if (__builtin_expect(behind == 0, 0)) {
    const int child = last_positive(line, 8);
    double q[8];
    _mm512_storeu_pd(q, prefix);
    return {child, child == 0 ? 0.0 : q[child - 1]};
  }
  const __m512i shifted = _mm512_alignr_epi64(_mm512_castpd_si512(prefix), _mm512_setzero_si512(), 7);
  const __m512d first = _mm512_maskz_compress_pd(behind, _mm512_castsi512_pd(shifted));
  return {__builtin_ctz(behind), _mm512_cvtsd_f64(first)};
}

int leaf_of(const float* line, double x) {
  const __m512 leaves = _mm512_load_ps(line);
  const __m512d low = prefix_of_eight(_mm512_cvtps_pd(_mm512_castps512_ps256(leaves)));
  __m512d high = prefix_of_eight(_mm512_cvtps_pd(_mm512_extractf32x8_ps(leaves, 1)));
  high = _mm512_add_pd(high, _mm512_permutexvar_pd(_mm512_set1_epi64(7), low));
  const __m512d wanted = _mm512_set1_pd(x);
  const uint32_t behind = _mm512_cmp_pd_mask(low, wanted, _CMP_GT_OQ) |
                          uint32_t(_mm512_cmp_pd_mask(high, wanted, _CMP_GT_OQ)) << 8;
  return __builtin_expect(behind == 0, 0) ? last_positive(line, 16) : __builtin_ctz(behind);
}

#else

// Writes the inclusive prefix sums of four children to prefix[0..3], without and with those before them.
template <typename T>
void prefix_of_four(const T* line, double* prefix) {
  prefix[0] = line[0];
  prefix[1] = double(line[0]) + double(line[1]);
  prefix[2] = prefix[1] + double(line[2]);
  prefix[3] = prefix[1] + (double(line[2]) + double(line[3]));
}

// The same sums as in the vector form: by pairs, fours, eights.
template <typename T, int Children>
Place place_in(const T* line, double x) {
  double prefix[Children + 1];
  prefix[0] = 0.0;
  double* q = prefix + 1;
  for (int four = 0; four < Children; four += 4) prefix_of_four(line + four, q + four);
  for (int eight = 0; eight < Children; eight += 8) {
    for (int c = 4; c < 8; ++c) q[eight + c] += q[eight + 3];
  }
  for (int c = 8; c < Children; ++c) q[c] += q[7];
  int child = 0;
  for (int c = 0; c < Children; ++c) child += q[c] > x ? 0 : 1;
  if (__builtin_expect(child == Children, 0)) child = last_positive(line, Children);
  return {child, prefix[child]};
}

Place place_of(const double* line, double x) { return place_in<double, 8>(line, x); }
int leaf_of(const float* line, double x) { return place_in<float, 16>(line, x).child; }

#endif

void prefetch(const void* lines, int64_t line) {
  __builtin_prefetch(static_cast<const char*>(lines) + line * kTreeLineBytes);
}

// How many members go down together: their lines of one level stay in the first-level cache.
constexpr int64_t kTogether = 256;

void descend(const SumTreeView& tree, int64_t n, double* mass, int64_t* indices, float* priorities) {
  for (int64_t i = 0; i < n; ++i) indices[i] = 0;
  for (int level = tree.levels - 2; level >= 0; --level) {
    const double* sums = tree.sums[level];
    const void* below = level > 0 ? static_cast<const void*>(tree.sums[level - 1]) : tree.leaves;
    for (int64_t i = 0; i < n; ++i) {
      const Place place = place_of(sums + indices[i] * kSumsPerLine, mass[i]);
      const int64_t child = indices[i] * kSumsPerLine + place.child;
      prefetch(below, child);
      indices[i] = child;
      mass[i] -= place.before;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t line = indices[i] * kLeavesPerLine;
    const int64_t leaf = line + leaf_of(tree.leaves + line, mass[i]);
    indices[i] = leaf;
    priorities[i] = tree.leaves[leaf];
  }
}

// Sets the bit of a node; whether it was clear.
bool mark(uint64_t* marks, int64_t node) {
  uint64_t& word = marks[node >> 6];
  const uint64_t bit = uint64_t(1) << (node & 63);
  const bool fresh = (word & bit) == 0;
  word |= bit;
  return fresh;
}

// Recomputes the sums of `count` distinct nodes of one level, clears their marks, and leaves in `touched`
// their distinct parents, whose number it returns.
template <typename Child>
int64_t recompute(const Child* children, int64_t per_line, double* sums, uint64_t* marks,
                  uint64_t* parent_marks, int64_t* touched, int64_t count) {
  int64_t parents = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t node = touched[i];
    sums[node] = line_sum(children + node * per_line);
    marks[node >> 6] = 0;
    if (parent_marks == nullptr) continue;
    const int64_t parent = node / kSumsPerLine;
    touched[parents] = parent;
    parents += mark(parent_marks, parent);
  }
  return parents;
}

}  // namespace

template <SimdPath Path>
int64_t sum_tree_first_fault_cpu(const SumTreeView& tree, const SumTreeBatch& batch) {
  constexpr float greatest = 0x1.fffffep127f;
  const auto fault = [&](int64_t i) {
    const float p = batch.priorities[i * batch.priorities_stride];
    return (static_cast<uint64_t>(batch.indices[i]) >= static_cast<uint64_t>(tree.capacity)) |
           !((p >= 0.0f) & (p <= greatest));
  };
  bool any = false;
  for (int64_t i = 0; i < batch.n; ++i) {
    // Outside the tree this is only an address that is not fetched.
    prefetch(tree.leaves, batch.indices[i] >> 4);
    any |= fault(i);
  }
  int64_t first = any ? 0 : batch.n;
  while (first < batch.n && !fault(first)) ++first;
  return first;
}

template <SimdPath Path>
int64_t sum_tree_update_cpu(const SumTreeView& tree, const SumTreeBatch& batch, int64_t* touched) {
  int64_t grown = 0;
  int64_t count = 0;
  for (int64_t i = 0; i < batch.n; ++i) {
    const int64_t leaf = batch.indices[i];
    const float p = batch.priorities[i * batch.priorities_stride];
    grown += int(p > 0.0f) - int(tree.leaves[leaf] > 0.0f);
    tree.leaves[leaf] = p + 0.0f;  // −0 becomes 0
    const int64_t node = leaf / kLeavesPerLine;
    touched[count] = node;
    count += mark(tree.marks[0], node);
  }
  for (int level = 0; level < tree.levels; ++level) {
    uint64_t* parent_marks = level + 1 < tree.levels ? tree.marks[level + 1] : nullptr;
    if (level == 0) {
      count =
          recompute(tree.leaves, kLeavesPerLine, tree.sums[0], tree.marks[0], parent_marks, touched, count);
    } else {
      count = recompute(tree.sums[level - 1], kSumsPerLine, tree.sums[level], tree.marks[level], parent_marks,
                        touched, count);
    }
  }
  return grown;
}

template <SimdPath Path>
int64_t sum_tree_rebuild_cpu(const SumTreeView& tree) {
  int64_t positive = 0;
  for (int64_t i = 0; i < tree.capacity; ++i) positive += tree.leaves[i] > 0.0f;
  for (int64_t i = 0; i < tree.lines[0]; ++i) tree.sums[0][i] = line_sum(tree.leaves + i * kLeavesPerLine);
  for (int level = 1; level < tree.levels; ++level) {
    const double* children = tree.sums[level - 1];
    for (int64_t i = 0; i < tree.lines[level]; ++i) {
      tree.sums[level][i] = line_sum(children + i * kSumsPerLine);
    }
  }
  return positive;
}

template <SimdPath Path>
void sum_tree_find_cpu(const SumTreeView& tree, int64_t n, double* mass, int64_t* indices,
                       float* priorities) {
  for (int64_t i = 0; i < n; i += kTogether) {
    descend(tree, n - i < kTogether ? n - i : kTogether, mass + i, indices + i, priorities + i);
  }
}

template <SimdPath Path>
void sum_tree_strata_cpu(double total, int64_t n, const int64_t* bits, double* mass) {
  const double step = total / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) {
    mass[i] = (static_cast<double>(i) + static_cast<double>(bits[i]) * 0x1p-53) * step;
  }
}

// (least / p)^β = exp(β·(ln(m₀ / m) + (e₀ − e)·ln 2)) with p = 2^e·m, 1 ≤ m < 2: the quotient itself could
// leave the range of a float.
template <SimdPath Path>
void sum_tree_weights_cpu(int64_t n, const float* priorities, float beta, float* weights) {
  using S = Simd<float>;
  using C = MathConstants<float>;
  constexpr int32_t one_bits = 127 << 23;
  const auto split = [](S::Vec p, S::Mask& exponent) {
    const S::Mask tiny = p < S::broadcast(C::smallest_normal);
    const S::Mask bits = S::bits(S::select(tiny, p * C::lift, p));
    exponent = (bits >> C::mantissa_bits) - (tiny & C::lift_exponent);
    return S::from_bits((bits & 0x7fffff) | one_bits);
  };
  float least = 0x1.fffffep127f;
  for (int64_t i = 0; i < n; ++i) least = priorities[i] < least ? priorities[i] : least;
  S::Mask least_exponent;
  const S::Vec least_mantissa = split(S::broadcast(least), least_exponent);
  for (int64_t i = 0; i < n; i += S::lanes) {
    S::Mask exponent;
    const S::Vec mantissa = split(S::load_first(priorities + i, n - i), exponent);
    const S::Vec octaves = __builtin_convertvector(least_exponent - exponent, S::Vec);
    const S::Vec ratio = log<S>(least_mantissa / mantissa) + octaves * 0.693147180559945f;
    S::store_first(weights + i, exp<S>(beta * ratio), n - i);
  }
}

template int64_t sum_tree_first_fault_cpu<kPath>(const SumTreeView&, const SumTreeBatch&);
template int64_t sum_tree_update_cpu<kPath>(const SumTreeView&, const SumTreeBatch&, int64_t*);
template int64_t sum_tree_rebuild_cpu<kPath>(const SumTreeView&);
template void sum_tree_find_cpu<kPath>(const SumTreeView&, int64_t, double*, int64_t*, float*);
template void sum_tree_strata_cpu<kPath>(double, int64_t, const int64_t*, double*);
template void sum_tree_weights_cpu<kPath>(int64_t, const float*, float, float*);

}  // namespace optix_fast
