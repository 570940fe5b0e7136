// Passes through independent networks at the same time. For the kernel files only.
#pragma once

#include "mlp.h"
#include "threads.h"

namespace optix_fast {
namespace {

// Multiply-adds from which on a pass is worth handing to another thread: a few microseconds.
constexpr int64_t kTurnWork = 1 << 16;

// work(0) … work(n − 1): passes of `rows` through networks like `stack`, each in memory of its own. One after the
// other where that is as quick: short passes, and such long ones that a team of more than n shares each product.
template <typename T, typename Work>
void side_by_side(const Stack<T>& stack, int64_t rows, const Work& work, int n = 2) {
  int64_t all = 0, largest = 0;
  for (int64_t i = 0; i < stack.n; ++i) {
    const int64_t product = rows * stack.layers[i].in * stack.layers[i].out;
    all += product;
    largest = product > largest ? product : largest;
  }
  if (all < kTurnWork || members_for(largest, team_size()) > n) {
    for (int i = 0; i < n; ++i) work(i);
  } else {
    in_team(n, work);
  }
}

}  // namespace
}  // namespace optix_fast
