// From samples in memory to samples in lanes and back, and sums over a batch of them.
#pragma once

#include "simd.h"

namespace optix_fast {
namespace {

// `rows` (at most S::lanes) samples of `width` adjacent elements each, into one vector per column; lanes
// without a sample become zero. `end` is the end of the array that the samples are part of: up to it a whole
// vector may be read where fewer elements are wanted.
template <typename S, typename T>
void gather_columns(const T* from, int64_t width, size_t rows, const T* end, T* to) {
  constexpr int64_t lanes = S::lanes;
  for (int64_t column = 0; column < width; column += lanes) {
    const int64_t wanted = width - column < lanes ? width - column : lanes;
    typename S::Vec tile[S::lanes];
    for (size_t i = 0; i < S::lanes; ++i) {
      const T* row = from + static_cast<int64_t>(i) * width + column;
      if (i >= rows) {
        tile[i] = typename S::Vec{};
      } else {
        tile[i] = row + lanes <= end ? S::load(row) : S::load_first(row, static_cast<size_t>(wanted));
      }
    }
    S::transpose(tile);
    for (int64_t k = 0; k < wanted; ++k) S::store(to + (column + k) * lanes, tile[k]);
  }
}

// The way back. In a narrow array a whole vector is stored where fewer elements are meant: what it spoils is
// the next samples, which are written later.
template <typename S, typename T>
void scatter_columns(const T* from, int64_t width, size_t rows, T* to, const T* end) {
  constexpr int64_t lanes = S::lanes;
  for (int64_t column = 0; column < width; column += lanes) {
    const int64_t wanted = width - column < lanes ? width - column : lanes;
    typename S::Vec tile[S::lanes];
    for (int64_t k = 0; k < lanes; ++k) {
      tile[k] = k < wanted ? S::load(from + (column + k) * lanes) : typename S::Vec{};
    }
    S::transpose(tile);
    for (size_t i = 0; i < rows; ++i) {
      T* row = to + static_cast<int64_t>(i) * width + column;
      if (wanted == lanes || (width < lanes && row + lanes <= end)) {
        S::store(row, tile[i]);
      } else {
        S::store_first(row, tile[i], static_cast<size_t>(wanted));
      }
    }
  }
}

// A sum over the batch: vectors of T for some blocks, then double, so that rounding does not grow with the
// batch.
template <typename S>
struct BatchSum {
  typename S::Vec partial{};
  double sum = 0.0;
  int64_t pending = 0;

  void add(typename S::Vec term, typename S::Mask valid) {
    partial = partial + S::select(valid, term, S::broadcast(0));
    if (++pending == 16) flush();
  }
  double total() {
    flush();
    return sum;
  }
  void flush() {
    for (size_t i = 0; i < S::lanes; ++i) sum += partial[i];
    partial = typename S::Vec{};
    pending = 0;
  }
};

// Calls block(row, rows, valid) for every block of samples; valid marks the lanes that hold one.
template <typename S, typename Block>
void each_block(int64_t batch, Block block) {
  typename S::Mask lane;
  for (size_t i = 0; i < S::lanes; ++i) lane[i] = i;
  for (int64_t row = 0; row < batch; row += S::lanes) {
    const int64_t left = batch - row;
    const size_t rows = left < int64_t(S::lanes) ? left : S::lanes;
    block(row, rows, lane < static_cast<typename S::Int>(rows));
  }
}

}  // namespace
}  // namespace optix_fast
