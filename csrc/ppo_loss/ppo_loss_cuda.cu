// One thread per sample. A block stages the parameters of its samples through shared memory, so that the rows
// are read and their gradients written in whole lines whatever D is; rows too wide for that are read where
// they are. Sums: a thread over its samples in order, a warp by halves, the warps and then the blocks in
// order, in double: the same bits at every call. The blocks' sums meet in a second, tiny kernel. Only a
// normalisation of the advantages or a floor on the entropy, whose gradients depend on the whole batch, need
// a pass before.
#include <cuda_runtime.h>

#include "../cuda_launch.h"
#include "ppo_loss.h"

namespace optix_fast {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kMaxBlocks = 2048;
constexpr size_t kMaxShared = 48 * 1024;
constexpr int kComponents = kPpoCudaDiscrete + 1;

enum Sum : int { kSurrogate, kValueLoss, kKl, kClipped, kFirstEntropy };
// Of the pass before; the entropies follow.
enum Moment : int { kShifted, kSquares, kFirstMoment };
// What the pass before leaves for the main kernel; the weights of the entropies follow.
enum Head : int { kMean, kScale, kFirstWeight };

// The arguments with everything that the host keeps behind pointers.
template <typename T>
struct Call {
  PpoLossArgs<T> a;
  int n_discrete, n_components, n_gaussian, width, mask_width;
  int nvec[kPpoCudaDiscrete];
  double coef[kComponents], floor[kComponents], floor_coef[kComponents];
  bool has_floor, normalize;
  int64_t blocks;
  double* head;      // [kFirstWeight + n_components]
  double* partials;  // [blocks, sums]
};

template <typename T>
struct Discrete {
  T largest, log_total, inverse_total, entropy, log_prob;
};

// Log-probability and entropy of one categorical variable; NaN where the action is impossible.
template <typename T>
__device__ Discrete<T> categorical(const T* logits, const uint8_t* allowed, int n, int64_t action) {
  Discrete<T> d{};
  d.largest = -T(INFINITY);
  for (int k = 0; k < n; ++k) {
    if (allowed == nullptr || allowed[k]) d.largest = logits[k] > d.largest ? logits[k] : d.largest;
  }
  T total = 0, weighted = 0;
  for (int k = 0; k < n; ++k) {
    if (allowed != nullptr && !allowed[k]) continue;
    const T shifted = logits[k] - d.largest;
    const T weight = exp(shifted);
    total += weight;
    if (weight != T(0)) weighted += weight * shifted;
  }
  d.log_total = log(total);
  d.inverse_total = T(1) / total;
  d.entropy = d.log_total - weighted * d.inverse_total;
  const bool possible = action >= 0 && action < n && (allowed == nullptr || allowed[action]);
  d.log_prob = possible ? logits[action] - d.largest - d.log_total : T(NAN);
  return d;
}

// `gradient` may be `logits`.
template <typename T>
__device__ void categorical_gradient(const T* logits, const uint8_t* allowed, int n, int64_t action,
                                     const Discrete<T>& d, T by_log_prob, T by_entropy, T* gradient) {
  for (int k = 0; k < n; ++k) {
    if (allowed != nullptr && !allowed[k]) {
      gradient[k] = T(0);
      continue;
    }
    const T shifted = logits[k] - d.largest;
    const T p = exp(shifted) * d.inverse_total;
    const T pull = p == T(0) ? T(0) : p * (shifted - d.log_total + d.entropy);
    gradient[k] = by_log_prob * ((k == action ? T(1) : T(0)) - p) - by_entropy * pull;
  }
}

// One sample: where its parameters are, and the rows of the other arrays.
template <typename T>
struct Sample {
  const Call<T>& c;
  int64_t row;
  const T* params;

  __device__ int64_t action(int k) const {
    if (c.n_gaussian == 0) return c.a.discrete_actions[row * c.n_discrete + k];
    const T given = c.a.continuous_actions[row * (c.n_discrete + c.n_gaussian) + k];
    if (!(given >= T(0) && given < T(c.nvec[k]))) return -1;
    const auto whole = static_cast<int64_t>(given);
    return T(whole) == given ? whole : -1;
  }
  __device__ const uint8_t* allowed(int offset) const {
    return c.a.action_mask == nullptr ? nullptr : c.a.action_mask + row * c.mask_width + offset;
  }
  __device__ T normal_action(int j) const {
    return c.a.continuous_actions[row * (c.n_discrete + c.n_gaussian) + c.n_discrete + j];
  }

  // Returns log π; entropy(k, H) receives every component's entropy.
  template <typename Entropy>
  __device__ T forward(Entropy&& entropy) const {
    T log_prob = 0;
    int offset = 0;
    for (int k = 0; k < c.n_discrete; ++k) {
      const Discrete<T> d = categorical(params + offset, allowed(offset), c.nvec[k], action(k));
      log_prob += d.log_prob;
      entropy(k, d.entropy);
      offset += c.nvec[k];
    }
    if (c.n_gaussian > 0) {
      constexpr T half_log_2pi = T(0.91893853320467274);
      T sum = 0;
      for (int j = 0; j < c.n_gaussian; ++j) {
        const T log_sigma = params[offset + c.n_gaussian + j];
        const T z = (normal_action(j) - params[offset + j]) * exp(-log_sigma);
        log_prob -= T(0.5) * z * z + log_sigma + half_log_2pi;
        sum += log_sigma + (half_log_2pi + T(0.5));
      }
      entropy(c.n_discrete, sum);
    }
    return log_prob;
  }

  // Computes the terms again rather than keep them: there are as many as logits.
  template <typename Weight>
  __device__ void backward(T by_log_prob, Weight&& by_entropy, T* gradient) const {
    int offset = 0;
    for (int k = 0; k < c.n_discrete; ++k) {
      const int64_t taken = action(k);
      const Discrete<T> d = categorical(params + offset, allowed(offset), c.nvec[k], taken);
      categorical_gradient(params + offset, allowed(offset), c.nvec[k], taken, d, by_log_prob, by_entropy(k),
                           gradient + offset);
      offset += c.nvec[k];
    }
    for (int j = 0; j < c.n_gaussian; ++j) {
      const T inverse = exp(-params[offset + c.n_gaussian + j]);
      const T z = (normal_action(j) - params[offset + j]) * inverse;
      gradient[offset + j] = by_log_prob * z * inverse;
      gradient[offset + c.n_gaussian + j] = by_log_prob * (z * z - T(1)) + by_entropy(c.n_discrete);
    }
  }
};

template <typename T>
struct Value {
  T loss, gradient;
};

// As value_loss of ppo_loss_cpu.cpp.
template <typename T>
__device__ Value<T> value_loss(const PpoLossArgs<T>& a, int64_t row) {
  const T value = a.values[row], target = a.returns[row];
  const T error = value - target;
  const T plain = error * error;
  if (a.value_clip_mode == ValueClip::none) return {plain, T(2) * error};
  const T old = a.old_values[row], limit = static_cast<T>(a.value_clip);
  const T change = value - old;
  const bool outside = change > limit || change < -limit;
  const T limited = change > limit ? limit : change < -limit ? -limit : change;
  const T clipped_error = old + limited - target;
  const T clipped = clipped_error * clipped_error;
  const T clipped_gradient = outside ? T(0) : T(2) * clipped_error;
  if (a.value_clip_mode == ValueClip::clipped) return {clipped, clipped_gradient};
  if (clipped == plain) return {plain, T(0.5) * (clipped_gradient + T(2) * error)};
  return clipped > plain ? Value<T>{clipped, clipped_gradient} : Value<T>{plain, T(2) * error};
}

// The block's sum of `term`, in thread 0. All threads call it.
__device__ double block_sum(double term) {
  __shared__ double of_warp[kWarps];
  for (int step = 16; step > 0; step /= 2) term += __shfl_down_sync(0xffffffffu, term, step);
  __syncthreads();  // the last call's reader is done
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = term;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kWarps; ++i) total += of_warp[i];
  }
  return total;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) moments_kernel(Call<T> c) {
  double sums[kFirstMoment + kComponents] = {};
  const double origin = c.a.advantages[0];  // keeps the squares small where the mean is large
  for (int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x; row < c.a.batch;
       row += int64_t(gridDim.x) * kThreads) {
    const double distance = double(c.a.advantages[row]) - origin;
    sums[kShifted] += distance;
    sums[kSquares] += distance * distance;
    if (!c.has_floor) continue;
    const Sample<T> sample{c, row, c.a.params + row * c.width};
    sample.forward([&](int k, T entropy) { sums[kFirstMoment + k] += entropy; });
  }
  const int n = kFirstMoment + c.n_components;
  for (int i = 0; i < n; ++i) {
    const double total = block_sum(sums[i]);
    if (threadIdx.x == 0) c.partials[int64_t(blockIdx.x) * n + i] = total;
  }
}

// The sums over the blocks, n of them, into shared memory: a warp each, lanes in order, then by halves.
template <typename T>
__device__ void grid_sums(const Call<T>& c, int n, double* sums) {
  const int lane = threadIdx.x % 32;
  for (int i = threadIdx.x / 32; i < n; i += kWarps) {
    double total = 0.0;
    for (int64_t block = lane; block < c.blocks; block += 32) total += c.partials[block * n + i];
    for (int step = 16; step > 0; step /= 2) total += __shfl_down_sync(0xffffffffu, total, step);
    if (lane == 0) sums[i] = total;
  }
  __syncthreads();
}

template <typename T>
__global__ void head_kernel(Call<T> c) {
  __shared__ double sums[kFirstMoment + kComponents];
  const int n = kFirstMoment + c.n_components;
  grid_sums(c, n, sums);
  if (threadIdx.x != 0) return;
  const double batch = static_cast<double>(c.a.batch);
  c.head[kMean] = 0.0;
  c.head[kScale] = 1.0;
  if (c.normalize) {
    const double mean = sums[kShifted] / batch;
    const double variance = (sums[kSquares] - batch * mean * mean) / (batch - 1.0);
    c.head[kMean] = double(c.a.advantages[0]) + mean;
    c.head[kScale] = 1.0 / (sqrt(variance < 0.0 ? 0.0 : variance) + 1e-8);
  }
  for (int k = 0; k < c.n_components; ++k) {
    const bool below = c.has_floor && sums[kFirstMoment + k] / batch < c.floor[k];
    c.head[kFirstWeight + k] = c.coef[k] + (below ? c.floor_coef[k] : 0.0);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) ppo_loss_kernel(Call<T> c, bool use_head, int stride) {
  extern __shared__ unsigned char shared[];
  T* tile = reinterpret_cast<T*>(shared);  // [kThreads, stride], or none where stride is 0
  const double batch = static_cast<double>(c.a.batch);
  const T mean = use_head ? static_cast<T>(c.head[kMean]) : T(0);
  const T scale = use_head ? static_cast<T>(c.head[kScale]) : T(1);
  const T epsilon = static_cast<T>(c.a.clip_ratio);
  const T low = static_cast<T>(1.0 - c.a.clip_ratio), high = static_cast<T>(1.0 + c.a.clip_ratio);
  const T per_sample = static_cast<T>(-1.0 / batch);
  const T value_scale = static_cast<T>(c.a.vf_coef / batch);
  const auto by_entropy = [&](int k) {
    return static_cast<T>(-(use_head ? c.head[kFirstWeight + k] : c.coef[k]) / batch);
  };
  double sums[kFirstEntropy + kComponents] = {};
  for (int64_t first = int64_t(blockIdx.x) * kThreads; first < c.a.batch;
       first += int64_t(gridDim.x) * kThreads) {
    const int64_t left = c.a.batch - first;
    const int rows = left < kThreads ? static_cast<int>(left) : kThreads;
    const int64_t base = first * c.width;
    if (stride > 0) {
      __syncthreads();  // the stores of the last samples are done
      for (int i = threadIdx.x; i < rows * c.width; i += kThreads) {
        tile[i / c.width * stride + i % c.width] = c.a.params[base + i];
      }
      __syncthreads();
    }
    if (threadIdx.x < rows) {
      const int64_t row = first + threadIdx.x;
      T* staged = tile + threadIdx.x * stride;
      const Sample<T> sample{c, row, stride > 0 ? staged : c.a.params + row * c.width};
      const T log_prob = sample.forward([&](int k, T entropy) { sums[kFirstEntropy + k] += entropy; });
      const T log_ratio = log_prob - c.a.old_log_probs[row];
      const T ratio = exp(log_ratio);
      const T advantage = (c.a.advantages[row] - mean) * scale;
      const T plain = ratio * advantage;
      const bool outside = ratio < low || ratio > high;
      const T clipped = (ratio < low ? low : ratio > high ? high : ratio) * advantage;
      const bool stopped = outside && clipped < plain;
      sums[kSurrogate] += clipped < plain ? clipped : plain;
      sums[kKl] += (ratio - T(1)) - log_ratio;
      sums[kClipped] += fabs(ratio - T(1)) > epsilon ? 1.0 : 0.0;
      const Value<T> value = value_loss(c.a, row);
      sums[kValueLoss] += value.loss;
      if (c.a.grad_values != nullptr) c.a.grad_values[row] = value.gradient * value_scale;
      if (c.a.grad_params != nullptr) {
        sample.backward((stopped ? T(0) : plain) * per_sample, by_entropy,
                        stride > 0 ? staged : c.a.grad_params + row * c.width);
      }
    }
    if (stride > 0 && c.a.grad_params != nullptr) {
      __syncthreads();
      for (int i = threadIdx.x; i < rows * c.width; i += kThreads) {
        c.a.grad_params[base + i] = tile[i / c.width * stride + i % c.width];
      }
    }
  }
  const int n = kFirstEntropy + c.n_components;
  for (int i = 0; i < n; ++i) {
    const double total = block_sum(sums[i]);
    if (threadIdx.x == 0) c.partials[int64_t(blockIdx.x) * n + i] = total;
  }
}

template <typename T>
__global__ void finish_kernel(Call<T> c) {
  __shared__ double sums[kFirstEntropy + kComponents];
  const int n = kFirstEntropy + c.n_components;
  grid_sums(c, n, sums);
  if (threadIdx.x != 0) return;
  for (int i = 0; i < n; ++i) sums[i] /= static_cast<double>(c.a.batch);
  double loss = -sums[kSurrogate] + c.a.vf_coef * sums[kValueLoss];
  double total = 0.0;
  for (int k = 0; k < c.n_components; ++k) {
    const double entropy = sums[kFirstEntropy + k];
    total += entropy;
    loss -= c.coef[k] * entropy;
    if (c.has_floor && entropy < c.floor[k]) loss += c.floor_coef[k] * (c.floor[k] - entropy);
    c.a.stats[kPpoStatistics + k] = static_cast<float>(entropy);
  }
  *c.a.loss = static_cast<T>(loss);
  const double stats[kPpoStatistics] = {-sums[kSurrogate], sums[kValueLoss], total, sums[kKl],
                                        sums[kClipped]};
  for (int i = 0; i < kPpoStatistics; ++i) c.a.stats[i] = static_cast<float>(stats[i]);
}

int64_t blocks_of(int64_t batch) {
  const int64_t needed = (batch + kThreads - 1) / kThreads;
  return needed < kMaxBlocks ? needed : kMaxBlocks;
}

template <typename T>
int components_of(const PpoLossArgs<T>& a) {
  const auto discrete = static_cast<int>(ppo_loss_discrete(a));
  return discrete + (a.kind == PolicyKind::normal || a.kind == PolicyKind::hybrid ? 1 : 0);
}

template <typename T>
Call<T> prepared(const PpoLossArgs<T>& a, double* memory) {
  Call<T> c{};
  c.a = a;
  c.n_discrete = static_cast<int>(ppo_loss_discrete(a));
  c.n_components = components_of(a);
  c.width = static_cast<int>(ppo_loss_params_width(a));
  const bool gaussian = c.n_components > c.n_discrete;
  c.n_gaussian = gaussian ? static_cast<int>(a.actions_width) : 0;
  c.mask_width = c.width - 2 * c.n_gaussian;
  for (int k = 0; k < c.n_discrete; ++k) {
    c.nvec[k] = a.kind == PolicyKind::categorical ? c.width : static_cast<int>(a.nvec[k]);
  }
  c.has_floor = a.entropy_floor != nullptr;
  for (int k = 0; k < c.n_components; ++k) {
    c.coef[k] = a.entropy_coef[k];
    c.floor[k] = c.has_floor ? a.entropy_floor[k] : 0.0;
    c.floor_coef[k] = c.has_floor ? a.entropy_floor_coef[k] : 0.0;
  }
  c.normalize = a.normalize_advantages && a.batch > 1;
  c.blocks = blocks_of(a.batch);
  c.head = memory;
  c.partials = memory + kFirstWeight + c.n_components;
  return c;
}

}  // namespace

template <typename T>
int64_t ppo_loss_cuda_scratch(const PpoLossArgs<T>& args) {
  const int components = components_of(args);
  return kFirstWeight + components + blocks_of(args.batch) * (kFirstEntropy + components);
}

template <typename T>
const char* ppo_loss_cuda(const PpoLossArgs<T>& args, double* memory, int device, void* stream) {
  if (ppo_loss_discrete(args) > kPpoCudaDiscrete) return "more categorical variables than it takes";
  const DeviceGuard guard(device);
  const Call<T> c = prepared(args, memory);
  const auto blocks = static_cast<unsigned>(c.blocks);
  const auto on = static_cast<cudaStream_t>(stream);
  const bool use_head = c.normalize || c.has_floor;
  if (use_head) {
    moments_kernel<T><<<blocks, kThreads, 0, on>>>(c);
    head_kernel<T><<<1, kThreads, 0, on>>>(c);
  }
  // An odd stride: the threads of a warp, each in its own row, meet different banks.
  int stride = c.width | 1;
  size_t bytes = sizeof(T) * kThreads * static_cast<size_t>(stride);
  if (bytes > kMaxShared - 1024) stride = 0, bytes = 0;
  ppo_loss_kernel<T><<<blocks, kThreads, bytes, on>>>(c, use_head, stride);
  finish_kernel<T><<<1, kThreads, 0, on>>>(c);
  return launch_error();
}

template int64_t ppo_loss_cuda_scratch<float>(const PpoLossArgs<float>&);
template int64_t ppo_loss_cuda_scratch<double>(const PpoLossArgs<double>&);
template const char* ppo_loss_cuda<float>(const PpoLossArgs<float>&, double*, int, void*);
template const char* ppo_loss_cuda<double>(const PpoLossArgs<double>&, double*, int, void*);

}  // namespace optix_fast
