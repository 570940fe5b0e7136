#include <cuda_runtime.h>

#include "../cuda_launch.h"
#include "../random/philox.h"
#include "tanh_normal.h"

namespace optix_fast {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kTile = 2048;  // elements whose terms a block holds in shared memory
constexpr int64_t kMostBlocks = 1 << 20;

__device__ float exp_of(float x) { return expf(x); }
__device__ double exp_of(double x) { return ::exp(x); }
__device__ float expm1_of(float x) { return expm1f(x); }
__device__ double expm1_of(double x) { return ::expm1(x); }
__device__ float log1p_of(float x) { return log1pf(x); }
__device__ double log1p_of(double x) { return ::log1p(x); }
__device__ float artanh_of(float x) { return atanhf(x); }
__device__ double artanh_of(double x) { return ::atanh(x); }
__device__ float magnitude_of(float x) { return fabsf(x); }
__device__ double magnitude_of(double x) { return ::fabs(x); }
__device__ float with_sign_of(float x, float sign) { return copysignf(x, sign); }
__device__ double with_sign_of(double x, double sign) { return ::copysign(x, sign); }

// What the functions of tanh share, as in simd_math.h.
template <typename T>
struct Folded {
  T magnitude, less_one, power, sign;
  __device__ explicit Folded(T u) : magnitude(magnitude_of(u)), sign(u) {
    less_one = expm1_of(T(-2) * magnitude);
    power = exp_of(T(-2) * magnitude);
  }
  __device__ T tanh() const { return with_sign_of(-less_one / (T(1) + power), sign); }
  __device__ T slope() const { return T(4) * power / ((T(1) + power) * (T(1) + power)); }
  __device__ T log_slope() const { return T(2) * (T(0.69314718055994531) - magnitude - log1p_of(power)); }
};

// log N(u) less log(1 − tanh²u).
template <typename T>
__device__ T term_of(T z, T log_std, const Folded<T>& u) {
  return (T(-0.5) * z * z - (log_std + T(0.91893853320467274))) - u.log_slope();
}

// log_prob of row first + threadIdx.x, + kThreads, ... from the terms of the tile that begins at column
// `column` of row `first`; a tile is whole rows or a part of one.
template <typename T>
__device__ void add_to_rows(const T* terms, int64_t first, int64_t rows, int64_t column, int64_t columns,
                            T* log_prob) {
  __syncthreads();
  for (int64_t r = threadIdx.x; r < rows; r += kThreads) {
    T sum = column == 0 ? T(0) : log_prob[first + r];
    for (int64_t j = 0; j < columns; ++j) sum += terms[r * columns + j];
    log_prob[first + r] = sum;
  }
  __syncthreads();
}

// Calls tile(start, elements, first, rows, column, columns) for the tiles of this block.
template <typename Tile>
__device__ void each_tile(int64_t batch, int64_t width, int64_t rows_at_once, Tile tile) {
  for (int64_t first = blockIdx.x * rows_at_once; first < batch; first += gridDim.x * rows_at_once) {
    const int64_t rows = min(rows_at_once, batch - first);
    for (int64_t column = 0; column < width || column == 0; column += kTile) {
      const int64_t columns = min(width - column, kTile);
      tile(first * width + column, rows * columns, first, rows, column, columns);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    log_prob_kernel(TanhNormalLogProbArgs<T> a, int64_t rows_at_once) {
  __shared__ T terms[kTile];
  const TanhNormalParams<T>& p = a.params;
  const T limit = static_cast<T>(kActionLimit);
  each_tile(
      p.batch, p.width, rows_at_once,
      [&](int64_t start, int64_t elements, int64_t first, int64_t rows, int64_t column, int64_t columns) {
        for (int64_t i = threadIdx.x; i < elements; i += kThreads) {
          const int64_t at = start + i;
          const T log_std = p.log_std[p.shared_log_std ? at % p.width : at];
          const T inverse = exp_of(-log_std);
          T u = a.value[at];
          T limited = T(0);
          bool outside = false;
          if (a.squashed) {
            outside = u > limit || u < -limit;
            limited = u > limit ? limit : u < -limit ? -limit : u;
            u = artanh_of(limited);
          }
          const T z = (u - p.mean[at]) * inverse;
          const Folded<T> folded(u);
          terms[i] = term_of(z, log_std, folded);
          if (a.by_mean != nullptr) {
            a.by_mean[at] = z * inverse;
            a.by_log_std[at] = z * z - T(1);
          }
          if (a.by_value != nullptr) {
            const T tanh = a.squashed ? limited : folded.tanh();
            T gradient = T(2) * tanh - z * inverse;
            if (a.squashed) gradient = outside ? T(0) : gradient / ((T(1) - tanh) * (T(1) + tanh));
            a.by_value[at] = gradient;
          }
        }
        add_to_rows(terms, first, rows, column, columns, a.log_prob);
      });
}

// The four normals of one Philox block, as random_normal makes them.
__device__ void four_normals(uint64_t offset, uint64_t key, float* normal) {
  const PhiloxBlock block = philox_block(offset, key);
  for (int pair = 0; pair < 2; ++pair) {
    const float from = static_cast<float>(block.word[2 * pair]) * 0x1p-32f + 0x1p-33f;
    const float turn = static_cast<float>(block.word[2 * pair + 1] >> 8) * 0x1p-24f;
    const float radius = sqrtf(-2.0f * logf(from));
    float sine, cosine;
    sincospif(2.0f * turn, &sine, &cosine);
    normal[2 * pair] = radius * cosine;
    normal[2 * pair + 1] = radius * sine;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) sample_kernel(TanhNormalSampleArgs<T> a, int64_t rows_at_once) {
  __shared__ T terms[kTile];
  const TanhNormalParams<T>& p = a.params;
  each_tile(
      p.batch, p.width, rows_at_once,
      [&](int64_t start, int64_t elements, int64_t first, int64_t rows, int64_t column, int64_t columns) {
        // A tile may begin and end inside a block of four.
        const int64_t end = start + elements;
        for (int64_t quad = start / 4 + threadIdx.x; 4 * quad < end; quad += kThreads) {
          float normal[4];
          four_normals(a.offset + quad, a.key, normal);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const int64_t at = 4 * quad + k;
            if (at < start || at >= end) continue;
            const T log_std = p.log_std[p.shared_log_std ? at % p.width : at];
            const T epsilon = normal[k];
            const T spread = exp_of(log_std) * epsilon;
            const T u = p.mean[at] + spread;
            const Folded<T> folded(u);
            terms[at - start] = term_of(epsilon, log_std, folded);
            a.action[at] = folded.tanh();
            a.pre_tanh[at] = u;
            if (a.slope != nullptr) {
              a.slope[at] = folded.slope();
              a.spread[at] = spread;
            }
          }
        }
        add_to_rows(terms, first, rows, column, columns, a.log_prob);
      });
}

template <typename Args>
const char* launch(void (*kernel)(Args, int64_t), const Args& args, int device, void* stream) {
  const int64_t batch = args.params.batch, width = args.params.width;
  if (batch == 0) return nullptr;
  const DeviceGuard guard(device);
  const int64_t fitting = width == 0 ? kTile : kTile / width;
  const int64_t rows_at_once = fitting < 1 ? 1 : fitting;
  const int64_t wanted = (batch + rows_at_once - 1) / rows_at_once;
  const auto blocks = static_cast<unsigned>(wanted < kMostBlocks ? wanted : kMostBlocks);
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args, rows_at_once);
  return launch_error();
}

}  // namespace

template <typename T>
const char* tanh_normal_log_prob_cuda(const TanhNormalLogProbArgs<T>& args, int device, void* stream) {
  return launch(&log_prob_kernel<T>, args, device, stream);
}

template <typename T>
const char* tanh_normal_sample_cuda(const TanhNormalSampleArgs<T>& args, int device, void* stream) {
  return launch(&sample_kernel<T>, args, device, stream);
}

template const char* tanh_normal_log_prob_cuda(const TanhNormalLogProbArgs<float>&, int, void*);
template const char* tanh_normal_log_prob_cuda(const TanhNormalLogProbArgs<double>&, int, void*);
template const char* tanh_normal_sample_cuda(const TanhNormalSampleArgs<float>&, int, void*);
template const char* tanh_normal_sample_cuda(const TanhNormalSampleArgs<double>&, int, void*);

}  // namespace optix_fast
