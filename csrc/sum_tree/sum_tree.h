// A sum tree: leaf i holds a priority p_i ≥ 0, and leaf i is found for p_i / Σp of all masses.
//
//   find(x) = the first i with p_0 + … + p_i > x; behind the last one (rounding): the last i with p_i > 0
//   stratified sample of n:  x_k = (k + u_k)·(Σp / n), u_k uniform in [0, 1) with 53 bits
//   weight_k = (N·p_k / Σp)^−β / max_j (N·p_j / Σp)^−β = (min_j p_j / p_k)^β: N and Σp cancel
//
// Memory: every node is one 64-byte line. leaves: float32, 16 to a line, zero behind the capacity. sums[0][j]
// is the float64 sum of leaf line j; sums[l + 1][j] that of line j of sums[l], 8 to a line; the last level
// has one sum, the total. So 2²⁰ leaves are 4 MiB + 512 KiB + 64 KiB + … in 7 levels, the leaf level
// included.
//
// Order of the sums: a parent is always recomputed from its children, never corrected by a difference, so
// nothing drifts and the tree is a function of its leaves. A line of eight is
// ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7)); sixteen leaves first add a_j + a_{j+8}. Inside a line
// the descent compares with prefix sums q_c that are built by pairs, fours and eights: (a4 + a5) + (a6 + a7)
// is added to q_3, and so on. Each q_c is a rounded sum of its predecessor's parts and more, so the q are
// monotone and a zero child has its predecessor's q: the first q_c > x is never a zero child's. All paths,
// CUDA included, use these orders: the same tree gives the same indices everywhere.
//
// CPU: a batch descends level by level, so the cache misses of all its members overlap, and each member
// prefetches its next line; on the upper levels, where members share lines, a line's prefix sums are made
// once. An update writes its leaves, then goes up level by level over the distinct parents, which a bit per
// node marks. What bounds both, for 2²⁰ leaves and a batch of 256, is the two lines per member that lie
// outside the first-level cache (leaves and lowest sums; cold caches double the time) and about 25
// instructions per member and level; benchmarks/bench_sum_tree.py has the figures. Huge pages changed
// nothing. CUDA: a thread per member; a duplicate is resolved by the greatest position (atomicMax), parents
// are recomputed by every member below them to the same bits, and the levels of at most 1024 nodes by one
// block.
#pragma once

#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

constexpr int64_t kTreeLineBytes = 64;
constexpr int64_t kLeavesPerLine = 16;
constexpr int64_t kSumsPerLine = 8;
constexpr int kMaxTreeLevels = 16;
constexpr int64_t kMaxTreeCapacity = int64_t(1) << 40;

struct SumTreeView {
  int64_t capacity;
  int32_t levels;                   // of sums
  int64_t lines[kMaxTreeLevels];    // lines[l]: sums on level l = lines of level l − 1 (l = 0: of leaves)
  float* leaves;                    // [16 · lines[0]]
  double* sums[kMaxTreeLevels];     // [lines[l], rounded up to a multiple of 8]
  uint64_t* marks[kMaxTreeLevels];  // CPU: one bit per sum, all zero between calls
  int32_t* winners;                 // CUDA: one per leaf, all zero between calls
};

struct SumTreeBatch {
  int64_t n;
  const int64_t* indices;     // [n]
  const float* priorities;    // [n], or one element
  int64_t priorities_stride;  // 1 or 0
};

// The first position whose index is outside the tree or whose priority is negative or not finite; n if none.
template <SimdPath Path>
int64_t sum_tree_first_fault_cpu(const SumTreeView& tree, const SumTreeBatch& batch);

// Writes the leaves in the order of the batch and recomputes every sum above them. touched: [n] of scratch.
// Returns by how much the number of positive leaves grew. The batch has no fault.
template <SimdPath Path>
int64_t sum_tree_update_cpu(const SumTreeView& tree, const SumTreeBatch& batch, int64_t* touched);

// Recomputes every sum; returns the number of positive leaves.
template <SimdPath Path>
int64_t sum_tree_rebuild_cpu(const SumTreeView& tree);

// The leaves of n masses in [0, Σp], which are consumed. The total is positive. scratch: prefix_scratch(n)
// bytes, aligned to a line.
template <SimdPath Path>
void sum_tree_find_cpu(const SumTreeView& tree, int64_t n, double* mass, int64_t* indices, float* priorities,
                       void* scratch);

// What a batch of n needs for the prefix sums of the levels that its members share: at most n / 2 lines on
// the lowest of them and an eighth on each one above.
constexpr int64_t kTreePrefixBytes = 128;
constexpr int64_t prefix_scratch(int64_t n) { return (n + kMaxTreeLevels) * kTreePrefixBytes; }

// mass[k] = (k + u_k)·(total / n); u_k = ⌊W·2⁻¹¹⌋·2⁻⁵³ with the 64-bit words W of the random stream
// (random.h), two to a block.
template <SimdPath Path>
void sum_tree_strata_cpu(double total, uint64_t key, uint64_t offset, int64_t n, double* mass);

// weights[k] = (min priorities / priorities[k])^β, for positive priorities.
template <SimdPath Path>
void sum_tree_weights_cpu(int64_t n, const float* priorities, float beta, float* weights);

// What the host reads from a tree on a device.
struct SumTreeStatus {
  double total;
  int64_t positive;  // leaves with a positive priority
  int32_t fault;     // SumTreeFault of the first call that failed since the last read
};
enum SumTreeFault : int32_t { kNoFault = 0, kBadIndex = 1, kBadPriority = 2, kBadMass = 3, kEmptyTree = 4 };

// Device memory next to the view: counters and the flags of the call in progress.
struct SumTreeControl {
  unsigned long long positive;
  int32_t fault;        // kept until the host reads it
  int32_t fault_now;    // of the update in progress
  uint32_t least_bits;  // the least priority of the batch in progress, as its bits
};

// Each enqueues on `stream` of device `device` and returns null, or CUDA's words for what went wrong. A batch
// with a fault changes nothing but the fault, which sum_tree_read_cuda reports and clears.
const char* sum_tree_update_cuda(const SumTreeView& tree, SumTreeControl* control, const SumTreeBatch& batch,
                                 int device, void* stream);
const char* sum_tree_rebuild_cuda(const SumTreeView& tree, SumTreeControl* control, int device, void* stream);
const char* sum_tree_gather_cuda(const SumTreeView& tree, SumTreeControl* control, int64_t n,
                                 const int64_t* indices, float* priorities, int device, void* stream);
const char* sum_tree_find_cuda(const SumTreeView& tree, SumTreeControl* control, int64_t n,
                               const double* mass, int64_t* indices, int device, void* stream);
// weights may be null: none wanted.
const char* sum_tree_sample_cuda(const SumTreeView& tree, SumTreeControl* control, uint64_t key,
                                 uint64_t offset, int64_t n, double beta, int64_t* indices, float* priorities,
                                 float* weights, int device, void* stream);
// Waits for the stream.
const char* sum_tree_read_cuda(const SumTreeView& tree, SumTreeControl* control, SumTreeStatus* status,
                               int device, void* stream);

}  // namespace optix_fast
