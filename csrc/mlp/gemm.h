// C[M, N] = start + A[M, K]·B[K, N]: the one matrix product that all of a dense layer's passes run on.
//
// A block of 6 rows × 4 vectors (2 where there are only 16 registers) of C stays in registers while k runs:
// each step loads the vectors of B's row k, and multiplies them by the elements of A's column k, one by one
// broadcast. So A may have any strides, rows of B and C must be adjacent in memory and N a multiple of the
// vector, which padded rows provide. Columns are the outer loop: their slice of B stays in cache while the
// rows of A pass. The sum over k runs from first to last in every element. A large product is shared out to
// the worker team by rows of C.
#pragma once

#include "lanes.h"
#include "threads.h"

namespace optix_fast {
namespace {

constexpr int kBlockRows = 6;
constexpr int kBlockVectors = kPath == SimdPath::avx512 ? 4 : 2;

// A: element (row, k) is data[row·row_stride + k·depth_stride].
template <typename T>
struct Left {
  const T* data;
  int64_t row_stride, depth_stride;
};

// B, C and what C starts from: rows of `stride` elements. start.data null: zero; start.stride 0: the same
// row.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
};

template <typename S, int M, int V, typename T>
[[gnu::noinline]] void multiply_block(int64_t depth, Left<T> a, Rows<const T> b, Rows<const T> start,
                                      Rows<T> c) {
  using Vec = typename S::Vec;
  Vec sum[M][V];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) {
      sum[i][j] = start.data == nullptr ? Vec{} : S::load(start.data + i * start.stride + j * S::lanes);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec row[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) row[j] = S::load(b.data + k * b.stride + j * S::lanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const Vec factor = S::broadcast(a.data[i * a.row_stride + k * a.depth_stride]);
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) sum[i][j] = sum[i][j] + factor * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) S::store(c.data + i * c.stride + j * S::lanes, sum[i][j]);
  }
}

template <typename S, int V, typename T>
void multiply_rows(int64_t rows, int64_t depth, Left<T> a, Rows<const T> b, Rows<const T> start, Rows<T> c) {
  switch (rows) {
    case 1:
      return multiply_block<S, 1, V>(depth, a, b, start, c);
    case 2:
      return multiply_block<S, 2, V>(depth, a, b, start, c);
    case 3:
      return multiply_block<S, 3, V>(depth, a, b, start, c);
    case 4:
      return multiply_block<S, 4, V>(depth, a, b, start, c);
    case 5:
      return multiply_block<S, 5, V>(depth, a, b, start, c);
    default:
      return multiply_block<S, 6, V>(depth, a, b, start, c);
  }
}

// Rows first to end of C.
template <typename S, typename T, typename Done>
void multiply_part(int64_t first, int64_t end, int64_t columns, int64_t depth, Left<T> a, Rows<const T> b,
                   Rows<const T> start, Rows<T> c, Done done) {
  constexpr int64_t lanes = S::lanes;
  for (int64_t column = 0; column < columns;) {
    const int64_t left = (columns - column) / lanes;
    const int64_t vectors = left < kBlockVectors ? left : kBlockVectors;
    for (int64_t row = first; row < end;) {
      // The rows that are left, in blocks as even as possible: 8 are 4 + 4, not 6 + 2.
      const int64_t blocks = (end - row + kBlockRows - 1) / kBlockRows;
      const int64_t here = (end - row + blocks - 1) / blocks;
      const Left<T> a_here{a.data + row * a.row_stride, a.row_stride, a.depth_stride};
      const Rows<const T> b_here{b.data + column, b.stride};
      const Rows<const T> start_here{
          start.data == nullptr ? nullptr : start.data + row * start.stride + column, start.stride};
      const Rows<T> c_here{c.data + row * c.stride + column, c.stride};
      switch (vectors) {
        case 1:
          multiply_rows<S, 1>(here, depth, a_here, b_here, start_here, c_here);
          break;
        case 2:
          multiply_rows<S, 2>(here, depth, a_here, b_here, start_here, c_here);
          break;
        case 3:
          multiply_rows < S, kBlockVectors<3 ? 1 : 3>(here, depth, a_here, b_here, start_here, c_here);
          break;
        default:
          multiply_rows<S, kBlockVectors>(here, depth, a_here, b_here, start_here, c_here);
      }
      done(row, here, column, vectors * lanes);
      row += here;
    }
    column += vectors * lanes;
  }
}

// done(row, rows, column, columns) is called for every finished block of C, by the thread that made it.
template <typename S, typename T, typename Done>
void multiply(int64_t rows, int64_t columns, int64_t depth, Left<T> a, Rows<const T> b, Rows<const T> start,
              Rows<T> c, Done done) {
  const int members = members_for(rows * columns * depth, team_size());
  if (members == 1) return multiply_part<S>(0, rows, columns, depth, a, b, start, c, done);
  // In whole blocks of rows.
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  in_team(members, [&](int member) {
    const int64_t first = blocks * member / members * kBlockRows;
    const int64_t end = member + 1 == members ? rows : blocks * (member + 1) / members * kBlockRows;
    multiply_part<S>(first, end, columns, depth, a, b, start, c, done);
  });
}

}  // namespace
}  // namespace optix_fast
