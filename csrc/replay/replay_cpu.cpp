#include "replay.h"

#include "simd.h"

namespace optix_fast {
namespace {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kTogether = 128;    // members whose lines are on their way together
constexpr int64_t kTouchBytes = 256;  // of a row; the hardware follows a longer one by itself

// Reads a byte of each line. In a loop of nothing else the reads of many members overlap: measured at twice
// the speed of prefetch instructions, whose lines came late where the page was unknown, too.
void touch(const unsigned char* from, int64_t bytes) {
  const int64_t wanted = bytes < kTouchBytes ? bytes : kTouchBytes;
  for (int64_t at = 0; at < wanted; at += kLineBytes) {
    static_cast<void>(*static_cast<const volatile unsigned char*>(from + at));
  }
  if (wanted > 0) static_cast<void>(*static_cast<const volatile unsigned char*>(from + wanted - 1));
}

const unsigned char* observation(const ReplayRecords& records, const ReplayLeaf& leaf, int64_t at) {
  return at >= 0 ? records.at(at) + leaf.offset : leaf.extra + ~at * leaf.bytes;
}

bool same_observation(const ReplayRing& ring, int64_t extra, const ReplayPush& rows, int64_t row) {
  for (int64_t l = 0; l < ring.n_compared; ++l) {
    const ReplayLeaf& leaf = ring.leaves[l];
    if (__builtin_memcmp(leaf.extra + extra * leaf.bytes, rows.observations[l] + row * leaf.bytes,
                         static_cast<size_t>(leaf.bytes)) != 0) {
      return false;
    }
  }
  return true;
}

template <typename T>
void follow(const ReplayRecords& records, const ReplayTargets<T>& targets, int64_t b) {
  double sum = 0.0, power = 1.0;
  int64_t at = targets.indices[b], steps = 0;
  for (;;) {
    const ReplayRow& row = records.row(at);
    sum += power * static_cast<double>(row.reward);
    power *= targets.gamma;
    ++steps;
    if (steps < targets.n_step && !row.terminated && !row.truncated) {
      const int64_t to = row.next >= 0 ? row.next : records.successor[~row.next];
      if (to >= 0) {
        at = to;
        continue;
      }
    }
    targets.after[b] = row.next;
    if (targets.rewards != nullptr) targets.rewards[b] = static_cast<T>(sum);
    if (targets.discounts != nullptr) targets.discounts[b] = static_cast<T>(row.terminated ? 0.0 : power);
    if (targets.terminated != nullptr) targets.terminated[b] = row.terminated;
    if (targets.steps != nullptr) targets.steps[b] = static_cast<int32_t>(steps);
    return;
  }
}

// The members in groups: their records are touched, then their chains followed, then what those lead to is
// touched, and `copy(b)` finds both.
template <typename T, typename Touch, typename Copy>
void draw(const ReplayRecords& records, const ReplayTargets<T>& targets, Touch&& touch_after, Copy&& copy) {
  for (int64_t begin = 0; begin < targets.n; begin += kTogether) {
    const int64_t end = begin + kTogether < targets.n ? begin + kTogether : targets.n;
    for (int64_t b = begin; b < end; ++b) touch(records.at(targets.indices[b]), records.bytes);
    for (int64_t b = begin; b < end; ++b) follow(records, targets, b);
    for (int64_t b = begin; b < end; ++b) touch_after(targets.after[b]);
    for (int64_t b = begin; b < end; ++b) copy(b);
  }
}

// Rows are mostly short, and a call for each would cost more than the copy.
void copy_bytes(unsigned char* to, const unsigned char* from, int64_t bytes) {
  if (bytes > 512) {
    __builtin_memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  int64_t at = 0;
  for (; at + 16 <= bytes; at += 16) __builtin_memcpy(to + at, from + at, 16);
  for (; at + 4 <= bytes; at += 4) __builtin_memcpy(to + at, from + at, 4);
  for (; at < bytes; ++at) to[at] = from[at];
}

template <typename T>
void convert_row(const unsigned char* from, int64_t n, T* to) {
  const auto* numbers = reinterpret_cast<const float*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(numbers[i]);
}

}  // namespace

template <SimdPath Path>
void replay_push_cpu(const ReplayRing& ring, const ReplayPush& rows) {
  int64_t number = ring.counts[0], n_free = ring.counts[1];
  int64_t slot = number % ring.capacity;
  for (int64_t r = 0; r < rows.n; ++r) {
    ReplayRow& row = ring.records.row(slot);
    if (number >= ring.capacity && row.next < 0) ring.free[n_free++] = ~row.next;
    int64_t& pending = ring.pending[rows.envs[r]];
    if (rows.joins[r] != kReplayBegins && pending >= 0 && pending > number - ring.capacity) {
      ReplayRow& previous = ring.records.row(pending % ring.capacity);
      const int64_t extra = ~previous.next;
      if (same_observation(ring, extra, rows, r)) {
        previous.next = slot;
        ring.free[n_free++] = extra;
      } else if (rows.joins[r] == kReplayGoesOn) {
        ring.records.successor[extra] = slot;
      }
    }
    const int64_t extra = ring.free[--n_free];
    ring.records.successor[extra] = -1;
    row = {~extra, rows.rewards[r], rows.terminated[r], rows.truncated[r], 0};
    unsigned char* record = ring.records.at(slot);
    copy_bytes(record + sizeof(ReplayRow), rows.actions + r * ring.action_bytes, ring.action_bytes);
    const int64_t next_index = rows.next_index[r];
    for (int64_t l = 0; l < ring.n_leaves; ++l) {
      const ReplayLeaf& leaf = ring.leaves[l];
      copy_bytes(record + leaf.offset, rows.observations[l] + r * leaf.bytes, leaf.bytes);
      const unsigned char* after = next_index >= 0 ? rows.observations[l] + next_index * leaf.bytes
                                                   : rows.others[l] + ~next_index * leaf.bytes;
      copy_bytes(leaf.extra + extra * leaf.bytes, after, leaf.bytes);
    }
    pending = rows.terminated[r] | rows.truncated[r] ? -1 : number;
    ++number;
    if (++slot == ring.capacity) slot = 0;
  }
  ring.counts[0] = number;
  ring.counts[1] = n_free;
}

template <SimdPath Path>
void replay_draw_cpu(const ReplayRing& ring, const ReplayGather& batch) {
  const ReplayRecords& records = ring.records;
  const ReplayTargets<float>& targets = batch.targets;
  draw(
      records, targets,
      [&](int64_t after) {
        for (int64_t l = 0; l < ring.n_leaves; ++l) {
          touch(observation(records, ring.leaves[l], after), ring.leaves[l].bytes);
        }
      },
      [&](int64_t b) {
        const unsigned char* record = records.at(targets.indices[b]);
        copy_bytes(batch.actions + b * ring.action_bytes, record + sizeof(ReplayRow), ring.action_bytes);
        for (int64_t l = 0; l < ring.n_leaves; ++l) {
          const ReplayLeaf& leaf = ring.leaves[l];
          copy_bytes(batch.observations[l] + b * leaf.bytes, record + leaf.offset, leaf.bytes);
          copy_bytes(batch.next_observations[l] + b * leaf.bytes,
                     observation(records, leaf, targets.after[b]), leaf.bytes);
        }
      });
}

template <SimdPath Path, typename T>
void replay_gather_cpu(const ReplaySource& source, const ReplayMinibatch<T>& batch) {
  const ReplayRecords& records = source.records;
  const ReplayTargets<T>& targets = batch.targets;
  const ReplayLeaf &leaf = source.observations, &masks = source.masks;
  draw(
      records, targets,
      [&](int64_t after) {
        touch(observation(records, leaf, after), leaf.bytes);
        if (batch.next_masks != nullptr) touch(observation(records, masks, after), masks.bytes);
      },
      [&](int64_t b) {
        const unsigned char* record = records.at(targets.indices[b]);
        const unsigned char* action = record + sizeof(ReplayRow);
        if (batch.observations != nullptr) {
          convert_row(record + leaf.offset, source.features,
                      batch.observations + b * batch.observations_stride);
        }
        if (batch.next_observations != nullptr) {
          convert_row(observation(records, leaf, targets.after[b]), source.features,
                      batch.next_observations + b * batch.next_stride);
        }
        if (batch.actions != nullptr) {
          convert_row(action, source.action_width, batch.actions + b * batch.actions_stride);
        }
        if (batch.next_masks != nullptr) {
          copy_bytes(batch.next_masks + b * masks.bytes, observation(records, masks, targets.after[b]),
                     masks.bytes);
        }
        if (batch.discrete_actions != nullptr) __builtin_memcpy(batch.discrete_actions + b, action, 8);
      });
}

template void replay_push_cpu<kPath>(const ReplayRing&, const ReplayPush&);
template void replay_draw_cpu<kPath>(const ReplayRing&, const ReplayGather&);
template void replay_gather_cpu<kPath, float>(const ReplaySource&, const ReplayMinibatch<float>&);
template void replay_gather_cpu<kPath, double>(const ReplaySource&, const ReplayMinibatch<double>&);

}  // namespace optix_fast
