#include <cuda_runtime.h>

#include "../cuda_launch.h"
#include "gae.h"

namespace optix_fast {
namespace {

constexpr int kThreads = 128;
// Rows loaded ahead of the recurrence: their loads are independent of each other and of A, so several are in
// flight while the dependent arithmetic of the rows before them runs.
constexpr int kAhead = 8;

template <typename T, bool Truncation>
__global__ void __launch_bounds__(kThreads) gae_kernel(GaeArgs<T> a) {
  const int64_t env = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (env >= a.envs) return;
  const T gamma = static_cast<T>(a.gamma);
  const T decay = static_cast<T>(a.gamma * a.gae_lambda);
  T next_value = a.last_value == nullptr ? a.last_scalar : a.last_value[env * a.last_value_stride];
  T advantage = T(0);
  for (int64_t top = a.steps; top > 0; top -= kAhead) {
    T reward[kAhead], value[kAhead], final_value[kAhead];
    bool terminated[kAhead], truncated[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t t = top - 1 - i;
      if (t < 0) break;
      const int64_t at = t * a.envs + env;
      reward[i] = a.rewards[at];
      value[i] = a.values[at];
      terminated[i] = a.terminated[at] != 0;
      truncated[i] = Truncation && a.truncated[at] != 0;
      if (Truncation) final_value[i] = truncated[i] ? a.final_values[at] : T(0);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t t = top - 1 - i;
      if (t < 0) break;
      T successor = next_value;
      if (Truncation && truncated[i]) successor = final_value[i];
      if (terminated[i]) successor = T(0);
      const T delta = reward[i] + gamma * successor - value[i];
      advantage = delta + decay * ((terminated[i] || truncated[i]) ? T(0) : advantage);
      next_value = value[i];
      const int64_t at = t * a.envs + env;
      a.advantages[at] = advantage;
      a.returns[at] = advantage + value[i];
    }
  }
}

}  // namespace

template <typename T>
const char* gae_cuda(const GaeArgs<T>& args, int device, void* stream) {
  if (args.steps == 0 || args.envs == 0) return nullptr;
  const DeviceGuard guard(device);
  const auto blocks = static_cast<unsigned>((args.envs + kThreads - 1) / kThreads);
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
