#include "sum_tree.h"

#include "simd_math.h"
#include "sum_tree/fractions.h"

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

// Eight children of a line and their inclusive prefix sums, by pairs, fours and eights on every path.
#if defined(__AVX512F__)

using Eight = __m512d;

Eight load8(const double* p) { return _mm512_load_pd(p); }
Eight load8(const float* p) { return _mm512_cvtps_pd(_mm256_load_ps(p)); }
void store8(double* p, Eight a) { _mm512_store_pd(p, a); }

Eight prefix_sums(Eight a) {
  const Eight pairs = _mm512_add_pd(a, _mm512_maskz_movedup_pd(0xAA, a));
  const Eight fours = _mm512_add_pd(pairs, _mm512_maskz_permutex_pd(0xCC, pairs, 0x55));
  return _mm512_add_pd(fours, _mm512_maskz_permutexvar_pd(0xF0, _mm512_set1_epi64(3), fours));
}
Eight add_last(Eight a, Eight before) {
  return _mm512_add_pd(a, _mm512_permutexvar_pd(_mm512_set1_epi64(7), before));
}
// A bit for each that exceeds x.
uint32_t exceeding(Eight a, double x) { return _mm512_cmp_pd_mask(a, _mm512_set1_pd(x), _CMP_GT_OQ); }

#elif defined(__AVX2__)

struct Eight {
  __m256d low, high;
};

Eight load8(const double* p) { return {_mm256_load_pd(p), _mm256_load_pd(p + 4)}; }
Eight load8(const float* p) { return {_mm256_cvtps_pd(_mm_load_ps(p)), _mm256_cvtps_pd(_mm_load_ps(p + 4))}; }
void store8(double* p, Eight a) {
  _mm256_store_pd(p, a.low);
  _mm256_store_pd(p + 4, a.high);
}

__m256d prefix_of_four(__m256d a) {
  const __m256d zero = _mm256_setzero_pd();
  const __m256d pairs = _mm256_add_pd(a, _mm256_blend_pd(zero, _mm256_movedup_pd(a), 0xA));
  return _mm256_add_pd(pairs, _mm256_blend_pd(zero, _mm256_permute4x64_pd(pairs, 0x55), 0xC));
}
Eight prefix_sums(Eight a) {
  const __m256d low = prefix_of_four(a.low);
  return {low, _mm256_add_pd(prefix_of_four(a.high), _mm256_permute4x64_pd(low, 0xFF))};
}
Eight add_last(Eight a, Eight before) {
  const __m256d last = _mm256_permute4x64_pd(before.high, 0xFF);
  return {_mm256_add_pd(a.low, last), _mm256_add_pd(a.high, last)};
}
uint32_t exceeding(Eight a, double x) {
  const __m256d wanted = _mm256_set1_pd(x);
  return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(a.low, wanted, _CMP_GT_OQ)) |
                               _mm256_movemask_pd(_mm256_cmp_pd(a.high, wanted, _CMP_GT_OQ)) << 4);
}

#else

struct Eight {
  double a[8];
};

template <typename T>
Eight load8(const T* p) {
  Eight e;
  for (int c = 0; c < 8; ++c) e.a[c] = p[c];
  return e;
}
void store8(double* p, Eight e) { __builtin_memcpy(p, e.a, sizeof e.a); }

Eight prefix_sums(Eight e) {
  for (int c = 0; c < 8; c += 2) e.a[c + 1] += e.a[c];
  for (int c = 2; c < 8; c += 4) {
    e.a[c] += e.a[c - 1];
    e.a[c + 1] += e.a[c - 1];
  }
  for (int c = 4; c < 8; ++c) e.a[c] += e.a[3];
  return e;
}
Eight add_last(Eight e, const Eight& before) {
  for (int c = 0; c < 8; ++c) e.a[c] += before.a[7];
  return e;
}
uint32_t exceeding(const Eight& e, double x) {
  uint32_t bits = 0;
  for (int c = 0; c < 8; ++c) bits |= uint32_t(e.a[c] > x) << c;
  return bits;
}

#endif

// Where x lies behind the last prefix sum, by rounding.
template <typename T>
__attribute__((noinline, cold)) int last_positive(const T* line, int children) {
  int child = children - 1;
  while (child > 0 && !(line[child] > T(0))) --child;
  return child;
}

template <typename T>
int first_child(uint32_t exceeding_bits, const T* line, int children) {
  return __builtin_expect(exceeding_bits == 0, 0) ? last_positive(line, children)
                                                  : __builtin_ctz(exceeding_bits);
}

// The prefix sums of a line, after a zero: sum[7 + c] is what lies before child c, sum[8 + c] includes it.
struct alignas(64) PrefixLine {
  double sum[16];

  void of(const double* line) {
    sum[7] = 0.0;
    store8(sum + 8, prefix_sums(load8(line)));
  }
};
static_assert(sizeof(PrefixLine) == kTreePrefixBytes, "the size that the caller's scratch is made of");

int leaf_of(const float* line, double x) {
  const Eight low = prefix_sums(load8(line));
  const Eight high = add_last(prefix_sums(load8(line + 8)), low);
  return first_child(exceeding(low, x) | exceeding(high, x) << 8, line, 16);
}

// Any line: one outside the tree is only an address that nothing is fetched from.
void prefetch(const void* lines, int64_t line) {
  const auto start = reinterpret_cast<uintptr_t>(lines);
  __builtin_prefetch(reinterpret_cast<const void*>(start + static_cast<uintptr_t>(line) * kTreeLineBytes));
}

// How many members go down together: their lines of one level stay in the first-level cache.
constexpr int64_t kTogether = 256;

// shared: the prefix lines of the levels from `from_shared` up, lowest level first.
void descend(const SumTreeView& tree, int from_shared, const PrefixLine* shared, int64_t n, double* mass,
             int64_t* indices, float* priorities) {
  for (int64_t i = 0; i < n; ++i) indices[i] = 0;
  for (int level = tree.levels - 2; level >= 0; --level) {
    const double* sums = tree.sums[level];
    const void* below = level > 0 ? static_cast<const void*>(tree.sums[level - 1]) : tree.leaves;
    const auto step = [=](int64_t i, const PrefixLine& prefix, uint32_t bits) {
      const int child = first_child(bits, sums + indices[i] * kSumsPerLine, kSumsPerLine);
      mass[i] -= prefix.sum[7 + child];
      indices[i] = indices[i] * kSumsPerLine + child;
      prefetch(below, indices[i]);
    };
    if (level >= from_shared) {
      const PrefixLine* lines = shared;
      for (int l = from_shared; l < level; ++l) lines += tree.lines[l + 1];
      for (int64_t i = 0; i < n; ++i) {
        const PrefixLine& prefix = lines[indices[i]];
        step(i, prefix, exceeding(load8(prefix.sum + 8), mass[i]));
      }
    } else {
      for (int64_t i = 0; i < n; ++i) {
        PrefixLine prefix;
        prefix.of(sums + indices[i] * kSumsPerLine);
        step(i, prefix, exceeding(load8(prefix.sum + 8), mass[i]));
      }
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
void sum_tree_find_cpu(const SumTreeView& tree, int64_t n, double* mass, int64_t* indices, float* priorities,
                       void* scratch) {
  // Levels with fewer lines than half the members: their prefix sums are made once, not once a member.
  auto* shared = static_cast<PrefixLine*>(scratch);
  int from_shared = tree.levels - 1;
  while (from_shared > 0 && tree.lines[from_shared] <= n / 2) --from_shared;
  PrefixLine* next = shared;
  for (int level = from_shared; level + 1 < tree.levels; ++level) {
    for (int64_t line = 0; line < tree.lines[level + 1]; ++line) {
      (next++)->of(tree.sums[level] + line * kSumsPerLine);
    }
  }
  for (int64_t i = 0; i < n; i += kTogether) {
    descend(tree, from_shared, shared, n - i < kTogether ? n - i : kTogether, mass + i, indices + i,
            priorities + i);
  }
}

template <SimdPath Path>
void sum_tree_strata_cpu(double total, uint64_t key, uint64_t offset, int64_t n, double* mass) {
  constexpr int64_t at_once = 2 * kBlocksAtOnce;
  const double step = total / static_cast<double>(n);
  for (int64_t i = 0; i < n; i += at_once) {
    int64_t bits[at_once];
    fractions_of_blocks(key, offset + static_cast<uint64_t>(i / 2), bits);
    const int64_t here = n - i < at_once ? n - i : at_once;
    for (int64_t j = 0; j < here; ++j) {
      mass[i + j] = (static_cast<double>(i + j) + static_cast<double>(bits[j]) * 0x1p-53) * step;
    }
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
template void sum_tree_find_cpu<kPath>(const SumTreeView&, int64_t, double*, int64_t*, float*, void*);
template void sum_tree_strata_cpu<kPath>(double, uint64_t, uint64_t, int64_t, double*);
template void sum_tree_weights_cpu<kPath>(int64_t, const float*, float, float*);

}  // namespace optix_fast
