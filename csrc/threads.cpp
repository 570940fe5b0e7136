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

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kIdleSpin(20);     // of a thread without work
constexpr std::chrono::microseconds kResultSpin(200);  // of the caller, whose result is being computed
// What the team costs the caller may exceed what it saves by kLoss, after kProfit has been put by; it then rests
// for kRest times the loss, so that a core busy with other work slows the caller by a few percent at most.
constexpr std::chrono::microseconds kLoss(20), kProfit(100);
constexpr int kRest = 32;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// A number that threads change and one waits for.
class Signal {
 public:
  unsigned value() const { return value_.load(std::memory_order_acquire); }

  void set(unsigned value) {
    value_.store(value, std::memory_order_seq_cst);
    wake();
  }

  void add_one() {
    value_.fetch_add(1, std::memory_order_seq_cst);
    wake();
  }

  template <typename Reached>
  void wait(Clock::duration spin, Reached reached) {
    const auto until = Clock::now() + spin;
    for (unsigned i = 1; !reached(value()); ++i) {
      if (i % 64 != 0 || Clock::now() < until) {
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
  void wake() {
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
    }  // whoever is about to sleep sleeps first
    wake_.notify_all();
  }

  std::atomic<unsigned> value_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

class Team {
 public:
  // False where somebody else has the team, or it is left alone.
  bool run(int parts, int threads, void (*work)(const void*, int), const void* context) {
    const std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
    if (!busy.owns_lock()) return false;
    if (Clock::now() < rests_until_) return false;
    const int helpers = (parts < threads ? parts : threads) - 1;
    if (!employ(helpers)) return false;
    const auto asking = Clock::now();
    work_ = work;
    context_ = context;
    done_.set(0);
    ticket_.store({++round_, static_cast<uint16_t>(parts), 1}, std::memory_order_release);
    for (int i = 0; i < helpers; ++i) asked_[i].of.set(round_);
    const auto working = Clock::now();
    work(context, 0);
    unsigned others = parts - 1;
    for (int part; (part = take(round_)) >= 0; --others) work(context, part);
    const auto worked = Clock::now();
    done_.wait(kResultSpin, [=](unsigned value) { return value == others; });
    const auto done = Clock::now();
    const auto saved = (worked - working) * others / (parts - others);
    balance_ += saved - (working - asking) - (done - worked);
    if (balance_ > kProfit) balance_ = kProfit;
    if (balance_ < -kLoss) {
      rests_until_ = done - kRest * balance_;
      balance_ = {};
    }
    return true;
  }

 private:
  // Which job's parts are given out, and the next of them.
  struct Ticket {
    uint32_t round;
    uint16_t parts, next;
  };
  struct alignas(64) Asked {
    Signal of;  // the last round in which this thread was asked
  };

  bool employ(int helpers) {
    for (; threads_ < helpers; ++threads_) {
      try {
        std::thread(&Team::serve, this, &asked_[threads_].of).detach();
      } catch (const std::system_error&) {
        return false;  // no more threads are to be had
      }
    }
    return true;
  }

  // A part of that round that nobody has begun, or −1. What the job is may be read with it.
  int take(uint32_t round) {
    Ticket ticket = ticket_.load(std::memory_order_acquire);
    while (ticket.round == round && ticket.next < ticket.parts) {
      Ticket taken = ticket;
      ++taken.next;
      if (ticket_.compare_exchange_weak(ticket, taken, std::memory_order_acq_rel)) return ticket.next;
    }
    return -1;
  }

  void serve(Signal* asked) {
    for (unsigned seen = 0;;) {
      asked->wait(kIdleSpin, [=](unsigned round) { return round != seen; });
      seen = asked->value();
      for (int part; (part = take(seen)) >= 0; done_.add_one()) work_(context_, part);
    }
  }

  std::mutex busy_;
  int threads_ = 0;
  uint32_t round_ = 0;
  Clock::duration balance_{};  // what the team saved its caller of late
  Clock::time_point rests_until_{};
  void (*work_)(const void*, int) = nullptr;
  const void* context_ = nullptr;
  alignas(64) std::atomic<Ticket> ticket_{Ticket{0, 0, 0}};
  alignas(64) Signal done_;
  Asked asked_[kMaxTeam - 1];
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

void team_run(int parts, void (*work)(const void*, int), const void* context) {
  const TeamScope part_alone(1);
  const int threads = part_alone.before();
  if (threads > 1 && team().run(parts, threads, work, context)) return;
  for (int part = 0; part < parts; ++part) work(context, part);
}

}  // namespace optix_fast
