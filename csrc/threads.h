// The worker team: a few threads that share the work of one learner call.
//
// A binding says for how long and how many (TeamScope); the kernels below it hand out parts with in_team(): of
// one large product, or one network each (mlp/side_by_side.h). Parts are whole elements of results, in memory
// of their own, and what they are does not depend on who computes them: the bits are the same for every team.
//
// The caller takes the first part and then every one that nobody has begun, so it only ever waits for a part in
// work. It keeps account of what other threads save it and of what asking and waiting for them costs. Where
// that is more, because their cores are busy with something else, it leaves them alone for a time that is long
// against the loss.
//
// One call at a time has the team; whoever comes meanwhile does all parts itself, one after the other. A
// thread without work spins for at most 20 µs, then sleeps. After a fork the child makes a team of its own
// when it needs one.
#pragma once

#include <cstdint>

namespace optix_fast {

constexpr int kMaxTeam = 64;

// Multiply-adds that are worth a member: handing out a part costs about a tenth of the time they take.
constexpr int64_t kMemberWork = 1 << 20;

// The members that share `work` multiply-adds where `threads` may. (Forced inline: simd_path.h.)
[[gnu::always_inline]] constexpr int members_for(int64_t work, int threads) {
  const int64_t members = (work + kMemberWork / 2) / kMemberWork;
  return members < 2 || threads < 2 ? 1 : members < threads ? static_cast<int>(members) : threads;
}

// Threads that the calling thread's kernels may use, itself included: 1 outside of every TeamScope, and within
// a part.
int team_size();

class TeamScope {
 public:
  explicit TeamScope(int size);  // clamped to [1, kMaxTeam]
  ~TeamScope();
  TeamScope(const TeamScope&) = delete;
  TeamScope& operator=(const TeamScope&) = delete;
  int before() const { return before_; }

 private:
  int before_;
};

// work(context, part) for part 0 … parts − 1, at the same time where possible; returns when all are done.
void team_run(int parts, void (*work)(const void* context, int part), const void* context);

// work(part) for each part.
template <typename Work>
[[gnu::always_inline]] inline void in_team(int parts, const Work& work) {
  if (parts == 1) return work(0);
  team_run(parts, [](const void* context, int part) { (*static_cast<const Work*>(context))(part); }, &work);
}

}  // namespace optix_fast
