// The worker team: a few threads that share the large matrix products of one learner call.
//
// A binding says for how long and how many (TeamScope); the kernels below it ask team_size() and hand out
// parts with in_team(). Parts are whole elements of a result, so that no sum depends on how many threads
// there are: the bits are the same for every team.
//
// One call at a time has the team; whoever comes meanwhile does all parts itself, one after the other. A
// waiting thread spins for at most 20 µs, then sleeps. After a fork the child makes a team of its own when it
// needs one.
#pragma once

namespace optix_fast {

constexpr int kMaxTeam = 64;

// Threads that the calling thread's kernels may use, itself included: 1 outside of every TeamScope.
int team_size();

class TeamScope {
 public:
  explicit TeamScope(int size);  // clamped to [1, kMaxTeam]
  ~TeamScope();
  TeamScope(const TeamScope&) = delete;
  TeamScope& operator=(const TeamScope&) = delete;

 private:
  int before_;
};

// work(context, member) for member 0 … members − 1, at the same time where possible; returns when all are
// done.
void team_run(int members, void (*work)(const void* context, int member), const void* context);

// work(member) for each member.
template <typename Work>
[[gnu::always_inline]] inline void in_team(int members, const Work& work) {
  team_run(
      members, [](const void* context, int member) { (*static_cast<const Work*>(context))(member); }, &work);
}

}  // namespace optix_fast
