#include "threads.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace optix_fast {
namespace {

constexpr std::chrono::microseconds kSpin(20);

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// A number that one thread writes and another waits for.
class Signal {
 public:
  unsigned value() const { return value_.load(std::memory_order_acquire); }

  void set(unsigned value) {
    value_.store(value, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
    }  // whoever is about to sleep sleeps first
    wake_.notify_all();
  }

  template <typename Reached>
  void wait(Reached reached) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    for (unsigned i = 1; !reached(value()); ++i) {
      if (i % 64 != 0 || std::chrono::steady_clock::now() < until) {
        relax();
        continue;
      }
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return reached(value_.load(std::memory_order_seq_cst)); });
      }
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      return;
    }
  }

 private:
  std::atomic<unsigned> value_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

class Team {
 public:
  // False where somebody else has the team.
  bool run(int members, void (*work)(const void*, int), const void* context) {
    const std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
    if (!busy.owns_lock()) return false;
    while (threads_ < members - 1) {
      Seat& seat = seats_[threads_];
      try {
        std::thread(&Team::serve, &seat, threads_ + 1).detach();
      } catch (const std::system_error&) {
        return false;  // no more threads are to be had
      }
      ++threads_;
    }
    for (int i = 0; i < members - 1; ++i) {
      seats_[i].work = work;
      seats_[i].context = context;
      seats_[i].asked.set(++seats_[i].rounds);
    }
    work(context, 0);
    for (int i = 0; i < members - 1; ++i) {
      const unsigned round = seats_[i].rounds;
      seats_[i].done.wait([=](unsigned value) { return value == round; });
    }
    return true;
  }

 private:
  struct alignas(64) Seat {
    void (*work)(const void*, int) = nullptr;
    const void* context = nullptr;
    unsigned rounds = 0;  // the caller's count of them
    Signal asked, done;
  };

  static void serve(Seat* seat, int member) {
    for (unsigned served = 0;;) {
      seat->asked.wait([=](unsigned value) { return value != served; });
      ++served;
      seat->work(seat->context, member);
      seat->done.set(served);
    }
  }

  std::mutex busy_;
  int threads_ = 0;
  Seat seats_[kMaxTeam - 1];
};

// Never destroyed: its threads run until the process ends.
Team* the_team = nullptr;

Team& team() {
  static const bool made = [] {
    the_team = new Team;
    // The parent's threads are not in the child.
    pthread_atfork(nullptr, nullptr, [] { the_team = new Team; });
    return true;
  }();
  (void)made;
  return *the_team;
}

thread_local int size_of_team = 1;

}  // namespace

int team_size() { return size_of_team; }

TeamScope::TeamScope(int size) : before_(size_of_team) {
  size_of_team = size < 1 ? 1 : size > kMaxTeam ? kMaxTeam : size;
}

TeamScope::~TeamScope() { size_of_team = before_; }

void team_run(int members, void (*work)(const void*, int), const void* context) {
  if (members > 1 && team().run(members, work, context)) return;
  for (int member = 0; member < members; ++member) work(context, member);
}

}  // namespace optix_fast
