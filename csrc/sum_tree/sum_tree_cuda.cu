#include <cuda_runtime.h>

#include "../cuda_launch.h"
#include "../random/philox.h"
#include "sum_tree.h"

namespace optix_fast {
namespace {

constexpr int kThreads = 256;
constexpr int kTopThreads = 1024;
// Levels of at most this many sums are recomputed whole, all of them in one launch of one block.
constexpr int64_t kTopLines = 1024;

__device__ double line_sum(const double* a) {
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

__device__ double line_sum(const float* leaves) {
  double a[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) a[j] = double(leaves[j]) + double(leaves[j + 8]);
  return line_sum(a);
}

__device__ void recompute(const SumTreeView& tree, int level, int64_t node) {
  tree.sums[level][node] = level == 0 ? line_sum(tree.leaves + node * kLeavesPerLine)
                                      : line_sum(tree.sums[level - 1] + node * kSumsPerLine);
}

// The first child whose inclusive prefix sum exceeds x (rounding: else the last that is not zero), of which x
// keeps what lies behind the children before it. The prefix sums are those of the CPU's descent.
template <int Children, typename T>
__device__ int place_in(const T* line, double& x) {
  double q[Children];
#pragma unroll
  for (int c = 0; c < Children; c += 4) {
    const double a0 = line[c], a1 = line[c + 1], a2 = line[c + 2], a3 = line[c + 3];
    q[c] = a0;
    q[c + 1] = a0 + a1;
    q[c + 2] = q[c + 1] + a2;
    q[c + 3] = q[c + 1] + (a2 + a3);
  }
#pragma unroll
  for (int c = 4; c < Children; ++c) {
    if (c % 8 >= 4) q[c] += q[c - c % 8 + 3];
  }
#pragma unroll
  for (int c = 8; c < Children; ++c) q[c] += q[7];
  int child = 0;
#pragma unroll
  for (int c = 0; c < Children; ++c) child += q[c] > x ? 0 : 1;
  if (child == Children) {
    --child;
    while (child > 0 && !(line[child] > T(0))) --child;
  }
  double before = 0.0;
#pragma unroll
  for (int c = 1; c < Children; ++c) before = c == child ? q[c - 1] : before;
  x -= before;
  return child;
}

__device__ int64_t find_leaf(const SumTreeView& tree, double x) {
  int64_t node = 0;
  for (int level = tree.levels - 2; level >= 0; --level) {
    node = node * kSumsPerLine + place_in<8>(tree.sums[level] + node * kSumsPerLine, x);
  }
  return node * kLeavesPerLine + place_in<16>(tree.leaves + node * kLeavesPerLine, x);
}

__device__ double total_of(const SumTreeView& tree) { return tree.sums[tree.levels - 1][0]; }

__device__ bool inside(const SumTreeView& tree, int64_t index) { return index >= 0 && index < tree.capacity; }

// The first fault since the host last read stays; which of several kinds in one call: the greatest.
__device__ void keep_fault(SumTreeControl* control, int32_t fault) {
  atomicCAS(&control->fault, kNoFault, fault);
}

__global__ void check_kernel(SumTreeView tree, SumTreeControl* control, SumTreeBatch batch) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= batch.n) return;
  const float p = batch.priorities[i * batch.priorities_stride];
  if (!inside(tree, batch.indices[i])) {
    atomicMax(&control->fault_now, int32_t(kBadIndex));
  } else if (!(p >= 0.0f && p <= 3.402823466e38f)) {
    atomicMax(&control->fault_now, int32_t(kBadPriority));
  } else {
    atomicMax(tree.winners + batch.indices[i], int32_t(i) + 1);
  }
}

// The last position of each index writes its leaf, unless the batch has a fault anywhere. A loser may read
// the mark before or after the winner clears it: neither is its own position.
__global__ void write_kernel(SumTreeView tree, SumTreeControl* control, SumTreeBatch batch) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  int grown = 0;
  if (i < batch.n && inside(tree, batch.indices[i]) && tree.winners[batch.indices[i]] == int32_t(i) + 1) {
    const int64_t leaf = batch.indices[i];
    tree.winners[leaf] = 0;
    if (control->fault_now == kNoFault) {
      const float p = batch.priorities[i * batch.priorities_stride];
      grown = int(p > 0.0f) - int(tree.leaves[leaf] > 0.0f);
      tree.leaves[leaf] = p + 0.0f;
    }
  }
  // A sum of integers: the order of the atomic additions does not show.
  const int more = __syncthreads_count(grown > 0);
  const int fewer = __syncthreads_count(grown < 0);
  if (threadIdx.x == 0 && more != fewer) {
    atomicAdd(&control->positive, static_cast<unsigned long long>(static_cast<long long>(more - fewer)));
  }
}

// Several members may recompute one node: from the same children, in the same order, to the same bits.
__global__ void climb_kernel(SumTreeView tree, const SumTreeControl* control, const int64_t* indices,
                             int64_t n, int level) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n || control->fault_now != kNoFault) return;
  recompute(tree, level, indices[i] >> (4 + 3 * level));
}

__global__ void __launch_bounds__(kTopThreads)
    top_kernel(SumTreeView tree, SumTreeControl* control, int from) {
  for (int level = from; level < tree.levels; ++level) {
    for (int64_t node = threadIdx.x; node < tree.lines[level]; node += kTopThreads)
      recompute(tree, level, node);
    __syncthreads();
  }
  if (threadIdx.x == 0 && control->fault_now != kNoFault) {
    keep_fault(control, control->fault_now);
    control->fault_now = kNoFault;
  }
}

__global__ void rebuild_kernel(SumTreeView tree, int level) {
  const int64_t node = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (node < tree.lines[level]) recompute(tree, level, node);
}

__global__ void count_kernel(SumTreeView tree, SumTreeControl* control) {
  const int64_t leaf = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int more = __syncthreads_count(leaf < tree.capacity && tree.leaves[leaf] > 0.0f);
  if (threadIdx.x == 0 && more != 0) atomicAdd(&control->positive, static_cast<unsigned long long>(more));
}

__global__ void gather_kernel(SumTreeView tree, SumTreeControl* control, int64_t n, const int64_t* indices,
                              float* priorities) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const bool found = inside(tree, indices[i]);
  if (!found) keep_fault(control, kBadIndex);
  priorities[i] = found ? tree.leaves[indices[i]] : 0.0f;
}

__global__ void find_kernel(SumTreeView tree, SumTreeControl* control, int64_t n, const double* mass,
                            int64_t* indices) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const double total = total_of(tree);
  const bool valid = mass[i] >= 0.0 && mass[i] <= total;
  if (total == 0.0 || !valid) keep_fault(control, total == 0.0 ? kEmptyTree : kBadMass);
  indices[i] = total == 0.0 || !valid ? 0 : find_leaf(tree, mass[i]);
}

__global__ void sample_kernel(SumTreeView tree, SumTreeControl* control, uint64_t key, uint64_t offset,
                              int64_t n, int64_t* indices, float* priorities) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  __shared__ uint32_t least;
  if (threadIdx.x == 0) least = 0xffffffffu;
  __syncthreads();
  if (i < n) {
    const double total = total_of(tree);
    float p = 0.0f;
    int64_t leaf = 0;
    if (total == 0.0) {
      keep_fault(control, kEmptyTree);
    } else {
      const PhiloxBlock block = philox_block(offset + uint64_t(i) / 2, key);
      const uint64_t word = i % 2 == 0 ? block.word[0] | uint64_t(block.word[1]) << 32
                                       : block.word[2] | uint64_t(block.word[3]) << 32;
      const double place = double(i) + double(word >> 11) * 0x1p-53;
      leaf = find_leaf(tree, place * (total / double(n)));
      p = tree.leaves[leaf];
    }
    indices[i] = leaf;
    priorities[i] = p;
    // The bits of floats that are not negative are ordered like the floats.
    atomicMin(&least, __float_as_uint(p));
  }
  __syncthreads();
  if (threadIdx.x == 0) atomicMin(&control->least_bits, least);
}

__global__ void weight_kernel(const SumTreeControl* control, int64_t n, double beta, const float* priorities,
                              float* weights) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const double p = priorities[i];
  weights[i] = p > 0.0 ? float(pow(double(__uint_as_float(control->least_bits)) / p, beta)) : 0.0f;
}

unsigned blocks_for(int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

int top_level(const SumTreeView& tree) {
  int level = 0;
  while (tree.lines[level] > kTopLines) ++level;
  return level;
}

}  // namespace

const char* sum_tree_update_cuda(const SumTreeView& tree, SumTreeControl* control, const SumTreeBatch& batch,
                                 int device, void* stream) {
  if (batch.n == 0) return nullptr;
  const DeviceGuard guard(device);
  const auto on = static_cast<cudaStream_t>(stream);
  const unsigned blocks = blocks_for(batch.n);
  const int top = top_level(tree);
  check_kernel<<<blocks, kThreads, 0, on>>>(tree, control, batch);
  write_kernel<<<blocks, kThreads, 0, on>>>(tree, control, batch);
  for (int level = 0; level < top; ++level) {
    climb_kernel<<<blocks, kThreads, 0, on>>>(tree, control, batch.indices, batch.n, level);
  }
  top_kernel<<<1, kTopThreads, 0, on>>>(tree, control, top);
  return launch_error();
}

const char* sum_tree_rebuild_cuda(const SumTreeView& tree, SumTreeControl* control, int device,
                                  void* stream) {
  const DeviceGuard guard(device);
  const auto on = static_cast<cudaStream_t>(stream);
  cudaMemsetAsync(control, 0, sizeof *control, on);
  count_kernel<<<blocks_for(tree.capacity), kThreads, 0, on>>>(tree, control);
  for (int level = 0; level < tree.levels; ++level) {
    rebuild_kernel<<<blocks_for(tree.lines[level]), kThreads, 0, on>>>(tree, level);
  }
  return launch_error();
}

const char* sum_tree_gather_cuda(const SumTreeView& tree, SumTreeControl* control, int64_t n,
                                 const int64_t* indices, float* priorities, int device, void* stream) {
  if (n == 0) return nullptr;
  const DeviceGuard guard(device);
  const auto on = static_cast<cudaStream_t>(stream);
  gather_kernel<<<blocks_for(n), kThreads, 0, on>>>(tree, control, n, indices, priorities);
  return launch_error();
}

const char* sum_tree_find_cuda(const SumTreeView& tree, SumTreeControl* control, int64_t n,
                               const double* mass, int64_t* indices, int device, void* stream) {
  if (n == 0) return nullptr;
  const DeviceGuard guard(device);
  const auto on = static_cast<cudaStream_t>(stream);
  find_kernel<<<blocks_for(n), kThreads, 0, on>>>(tree, control, n, mass, indices);
  return launch_error();
}

const char* sum_tree_sample_cuda(const SumTreeView& tree, SumTreeControl* control, uint64_t key,
                                 uint64_t offset, int64_t n, double beta, int64_t* indices, float* priorities,
                                 float* weights, int device, void* stream) {
  if (n == 0) return nullptr;
  const DeviceGuard guard(device);
  const auto on = static_cast<cudaStream_t>(stream);
  cudaMemsetAsync(&control->least_bits, 0xff, sizeof control->least_bits, on);
  sample_kernel<<<blocks_for(n), kThreads, 0, on>>>(tree, control, key, offset, n, indices, priorities);
  if (weights != nullptr) {
    weight_kernel<<<blocks_for(n), kThreads, 0, on>>>(control, n, beta, priorities, weights);
  }
  return launch_error();
}

const char* sum_tree_read_cuda(const SumTreeView& tree, SumTreeControl* control, SumTreeStatus* status,
                               int device, void* stream) {
  const DeviceGuard guard(device);
  const auto on = static_cast<cudaStream_t>(stream);
  SumTreeControl seen{};
  cudaMemcpyAsync(&status->total, tree.sums[tree.levels - 1], sizeof(double), cudaMemcpyDeviceToHost, on);
  cudaMemcpyAsync(&seen, control, sizeof seen, cudaMemcpyDeviceToHost, on);
  cudaStreamSynchronize(on);
  status->positive = static_cast<int64_t>(seen.positive);
  status->fault = seen.fault;
  if (seen.fault != kNoFault) cudaMemsetAsync(&control->fault, 0, sizeof control->fault, on);
  return launch_error();
}

}  // namespace optix_fast
