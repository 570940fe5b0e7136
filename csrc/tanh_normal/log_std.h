// The bounds that the logarithm of every policy's standard deviation is clamped to; it has no gradient
// outside.
#pragma once

namespace optix_fast {

constexpr double kLogStdMin = -5.0, kLogStdMax = 2.0;

namespace {

template <typename T>
inline T clamped_log_std(T x) {
  return x < T(kLogStdMin) ? T(kLogStdMin) : x > T(kLogStdMax) ? T(kLogStdMax) : x;
}

template <typename T>
inline bool inside_log_std(T x) {
  return x >= T(kLogStdMin) && x <= T(kLogStdMax);
}

}  // namespace
}  // namespace optix_fast
