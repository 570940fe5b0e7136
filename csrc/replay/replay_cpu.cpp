#include "replay.h"

#include "simd.h"

namespace optix_fast {
namespace {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kAhead = 16;            // members whose links and rewards are on their way
constexpr int64_t kPrefetchBytes = 1024;  // of a row; the hardware follows a longer one by itself

void prefetch(const void* p) { __builtin_prefetch(p); }

void prefetch_row(const void* row, int64_t bytes) {
  const auto* p = static_cast<const unsigned char*>(row);
  const int64_t wanted = bytes < kPrefetchBytes ? bytes : kPrefetchBytes;
  for (int64_t at = 0; at < wanted; at += kLineBytes) prefetch(p + at);
  prefetch(p + wanted - 1);
}

void prefetch_links(const ReplayChain& chain, int64_t row) {
  prefetch(chain.next + row);
  prefetch(chain.rewards + row);
  prefetch(chain.terminated + row);
  prefetch(chain.truncated + row);
}

bool same_observation(const ReplayRing& ring, int64_t extra, const ReplayPush& rows, int64_t row) {
  for (int64_t l = 0; l < ring.n_leaves; ++l) {
    const ReplayLeaf& leaf = ring.leaves[l];
    if (__builtin_memcmp(leaf.extra + extra * leaf.bytes, rows.observations[l] + row * leaf.bytes,
                         static_cast<size_t>(leaf.bytes)) != 0) {
      return false;
    }
  }
  return true;
}

// Calls prepare(b) and, kAhead members later, work(b).
template <typename Prepare, typename Work>
void pipelined(int64_t n, Prepare&& prepare, Work&& work) {
  const int64_t first = n < kAhead ? n : kAhead;
  for (int64_t b = 0; b < first; ++b) prepare(b);
  for (int64_t b = 0; b < n; ++b) {
    if (b + kAhead < n) prepare(b + kAhead);
    work(b);
  }
}

template <typename T>
struct Target {
  int64_t after, steps;
  uint8_t terminated;
  T reward, discount;
};

template <typename T>
Target<T> follow(const ReplayChain& chain, int64_t row, int64_t n_step, double gamma) {
  double sum = 0.0, power = 1.0;
  int64_t steps = 0;
  for (;;) {
    sum += power * static_cast<double>(chain.rewards[row]);
    power *= gamma;
    ++steps;
    const int64_t next = chain.next[row];
    const uint8_t terminated = chain.terminated[row];
    if (steps == n_step || terminated || chain.truncated[row] || next < 0) {
      return {next, steps, terminated, static_cast<T>(sum), static_cast<T>(terminated ? 0.0 : power)};
    }
    row = next;
  }
}

// `seen(b, target)` is told each target as soon as it is known.
template <typename T, typename Seen>
void follow_all(const ReplayChain& chain, const ReplayTargets<T>& targets, Seen&& seen) {
  pipelined(
      targets.n, [&](int64_t b) { prefetch_links(chain, targets.indices[b]); },
      [&](int64_t b) {
        const Target<T> target = follow<T>(chain, targets.indices[b], targets.n_step, targets.gamma);
        targets.after[b] = target.after;
        if (targets.rewards != nullptr) targets.rewards[b] = target.reward;
        if (targets.discounts != nullptr) targets.discounts[b] = target.discount;
        if (targets.terminated != nullptr) targets.terminated[b] = target.terminated;
        if (targets.steps != nullptr) targets.steps[b] = static_cast<int32_t>(target.steps);
        seen(b, target.after);
      });
}

template <typename T>
void convert_row(const float* from, int64_t n, T* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]);
}

}  // namespace

template <SimdPath Path>
void replay_push_cpu(const ReplayRing& ring, const ReplayPush& rows) {
  int64_t number = ring.counts[0], n_free = ring.counts[1];
  int64_t slot = number % ring.capacity;
  for (int64_t r = 0; r < rows.n; ++r) {
    if (number >= ring.capacity && ring.next[slot] < 0) ring.free[n_free++] = ~ring.next[slot];
    int64_t& pending = ring.pending[rows.envs[r]];
    if (pending >= 0 && pending > number - ring.capacity) {
      const int64_t previous = pending % ring.capacity;
      const int64_t extra = ~ring.next[previous];
      if (same_observation(ring, extra, rows, r)) {
        ring.next[previous] = slot;
        ring.free[n_free++] = extra;
      }
    }
    const int64_t extra = ring.free[--n_free];
    const int64_t following = rows.following[r];
    for (int64_t l = 0; l < ring.n_leaves; ++l) {
      const ReplayLeaf& leaf = ring.leaves[l];
      const auto bytes = static_cast<size_t>(leaf.bytes);
      __builtin_memcpy(leaf.rows + slot * leaf.bytes, rows.observations[l] + r * leaf.bytes, bytes);
      const unsigned char* after = following >= 0 ? rows.observations[l] + following * leaf.bytes
                                                  : rows.others[l] + ~following * leaf.bytes;
      __builtin_memcpy(leaf.extra + extra * leaf.bytes, after, bytes);
    }
    __builtin_memcpy(ring.actions + slot * ring.action_bytes, rows.actions + r * ring.action_bytes,
                     static_cast<size_t>(ring.action_bytes));
    ring.rewards[slot] = rows.rewards[r];
    ring.terminated[slot] = rows.terminated[r];
    ring.truncated[slot] = rows.truncated[r];
    ring.next[slot] = ~extra;
    pending = rows.terminated[r] | rows.truncated[r] ? -1 : number;
    ++number;
    if (++slot == ring.capacity) slot = 0;
  }
  ring.counts[0] = number;
  ring.counts[1] = n_free;
}

template <SimdPath Path, typename T>
void replay_follow_cpu(const ReplayChain& chain, const ReplayTargets<T>& targets) {
  follow_all(chain, targets, [](int64_t, int64_t) {});
}

template <SimdPath Path>
void replay_copy_cpu(const ReplayLeaf& leaf, int64_t n, const int64_t* at, unsigned char* out) {
  const auto row = [&](int64_t b) {
    return at[b] >= 0 ? leaf.rows + at[b] * leaf.bytes : leaf.extra + ~at[b] * leaf.bytes;
  };
  pipelined(
      n, [&](int64_t b) { prefetch_row(row(b), leaf.bytes); },
      [&](int64_t b) { __builtin_memcpy(out + b * leaf.bytes, row(b), static_cast<size_t>(leaf.bytes)); });
}

template <SimdPath Path, typename T>
void replay_gather_cpu(const ReplaySource& source, const ReplayMinibatch<T>& batch) {
  const ReplayTargets<T>& targets = batch.targets;
  const int64_t features = source.features, width = source.action_width;
  const int64_t row_bytes = features * int64_t(sizeof(float));
  const auto row_after = [&](int64_t next) {
    return next >= 0 ? source.observations + next * features : source.extra + ~next * features;
  };
  follow_all(source.chain, targets, [&](int64_t b, int64_t next) {
    const int64_t row = targets.indices[b];
    prefetch_row(source.observations + row * features, row_bytes);
    prefetch_row(row_after(next), row_bytes);
    prefetch(source.actions == nullptr ? static_cast<const void*>(source.discrete_actions + row)
                                       : source.actions + row * width);
  });
  for (int64_t b = 0; b < targets.n; ++b) {
    const int64_t row = targets.indices[b];
    if (batch.observations != nullptr) {
      convert_row(source.observations + row * features, features,
                  batch.observations + b * batch.observations_stride);
    }
    if (batch.next_observations != nullptr) {
      convert_row(row_after(targets.after[b]), features, batch.next_observations + b * batch.next_stride);
    }
    if (batch.actions != nullptr) {
      convert_row(source.actions + row * width, width, batch.actions + b * batch.actions_stride);
    }
    if (batch.discrete_actions != nullptr) batch.discrete_actions[b] = source.discrete_actions[row];
  }
}

template void replay_push_cpu<kPath>(const ReplayRing&, const ReplayPush&);
template void replay_follow_cpu<kPath, float>(const ReplayChain&, const ReplayTargets<float>&);
template void replay_copy_cpu<kPath>(const ReplayLeaf&, int64_t, const int64_t*, unsigned char*);
template void replay_gather_cpu<kPath, float>(const ReplaySource&, const ReplayMinibatch<float>&);
template void replay_gather_cpu<kPath, double>(const ReplaySource&, const ReplayMinibatch<double>&);

}  // namespace optix_fast
