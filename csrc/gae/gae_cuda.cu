#include <cuda_runtime.h>

#include "../cuda_launch.h"
#include "gae.h"

namespace optix_fast {
namespace {

// A block takes kTile environments and goes backwards through time kTile rows at once. Loading and storing, a
// warp is a row: its lanes are neighbouring environments, neighbouring addresses. Between the two the tile is
// turned in shared memory: a warp is an environment, its lanes are rows, and the recurrence is a scan over
// them. After the step of width k, x holds the sum of the lane's own δ and those of the rows up to 2k − 1
// later that the same episode reaches; what comes from the tile behind is added last. The rows of the next
// tile are loaded before the scan of this one. There are thus kTile threads for each environment, which keeps
// enough loads under way for the memory even where the environments are few.
constexpr int kTile = 32;
constexpr int kThreads = kTile * kTile;
constexpr unsigned kAll = 0xffffffffu;

// What a thread loads of its row and environment.
template <typename T>
struct Row {
  T delta, value;
  bool goes_on;  // the next row belongs to the same episode
};

template <typename T, bool Truncation>
__device__ Row<T> load_row(const GaeArgs<T>& a, int64_t t, int64_t env) {
  if (t < 0 || env >= a.envs) return {T(0), T(0), false};
  const int64_t at = t * a.envs + env;
  const T value = a.values[at];
  const bool terminated = a.terminated[at] != 0;
  const bool truncated = Truncation && a.truncated[at] != 0;
  T successor = T(0);
  if (!terminated) {
    if (truncated) {
      successor = a.final_values[at];
    } else if (t + 1 < a.steps) {
      successor = a.values[at + a.envs];
    } else {
      successor = a.last_value == nullptr ? a.last_scalar : a.last_value[env * a.last_value_stride];
    }
  }
  return {a.rewards[at] + static_cast<T>(a.gamma) * successor - value, value, !(terminated || truncated)};
}

template <typename T, bool Truncation>
__global__ void __launch_bounds__(kThreads) gae_kernel(GaeArgs<T> a) {
  __shared__ T turned[kTile][kTile + 1];  // the odd stride keeps a column in different banks
  __shared__ bool reaches[kTile][kTile + 4];
  const int lane = static_cast<int>(threadIdx.x) % kTile, warp = static_cast<int>(threadIdx.x) / kTile;
  const int64_t env = int64_t(blockIdx.x) * kTile + lane;
  const T decay = static_cast<T>(a.gamma * a.gae_lambda);
  T to_next = T(1);  // decay to the number of rows from this lane's to the tile behind
  for (int i = lane; i < kTile; ++i) to_next *= decay;
  T next = T(0);  // A of the row behind the tile, of the environment that this warp scans
  Row<T> row = load_row<T, Truncation>(a, a.steps - kTile + warp, env);
  for (int64_t first = a.steps - kTile; first > -kTile; first -= kTile) {
    turned[warp][lane] = row.delta;
    reaches[warp][lane] = row.goes_on;
    __syncthreads();
    const Row<T> ahead = load_row<T, Truncation>(a, first - kTile + warp, env);
    T x = turned[lane][warp];
    int reach = reaches[lane][warp] ? 1 : 0;
    T power = decay;
    for (int width = 1; width < kTile; width *= 2) {
      const T later = __shfl_down_sync(kAll, x, width);
      const int later_reach = __shfl_down_sync(kAll, reach, width);
      if (lane + width < kTile) {
        if (reach) x += power * later;
        reach = reach && later_reach;
      }
      power *= power;
    }
    if (reach) x += to_next * next;
    next = __shfl_sync(kAll, x, 0);
    turned[lane][warp] = x;
    __syncthreads();
    const int64_t t = first + warp;
    if (t >= 0 && env < a.envs) {
      const T advantage = turned[warp][lane];
      a.advantages[t * a.envs + env] = advantage;
      a.returns[t * a.envs + env] = advantage + row.value;
    }
    __syncthreads();
    row = ahead;
  }
}

}  // namespace

template <typename T>
const char* gae_cuda(const GaeArgs<T>& args, int device, void* stream) {
  if (args.steps == 0 || args.envs == 0) return nullptr;
  const DeviceGuard guard(device);
  const auto blocks = static_cast<unsigned>((args.envs + kTile - 1) / kTile);
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.truncated == nullptr) {
    gae_kernel<T, false><<<blocks, kThreads, 0, on>>>(args);
  } else {
    gae_kernel<T, true><<<blocks, kThreads, 0, on>>>(args);
  }
  return launch_error();
}

template const char* gae_cuda<float>(const GaeArgs<float>&, int, void*);
template const char* gae_cuda<double>(const GaeArgs<double>&, int, void*);

}  // namespace optix_fast
