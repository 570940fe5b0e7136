#include "replay_bind.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "bound_struct.h"
#include "fast_call.h"

namespace optix_fast {
namespace {

constexpr const char* kOp = "ReplayBuffer";

// A contiguous array of any element type, as bytes.
class Bytes {
 public:
  Bytes(py::handle array, const char* name, bool writable) {
    const int flags = PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
    if (!PyObject_CheckBuffer(array.ptr()) || PyObject_GetBuffer(array.ptr(), &buffer_, flags) != 0) {
      PyErr_Clear();
      throw py::value_error(std::string(kOp) + ": " + name + " must be a contiguous array");
    }
  }
  Bytes(Bytes&& other) noexcept : buffer_(other.buffer_) { other.buffer_ = Py_buffer{}; }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { PyBuffer_Release(&buffer_); }

  unsigned char* data() const { return static_cast<unsigned char*>(buffer_.buf); }
  int64_t size() const { return buffer_.len; }

 private:
  Py_buffer buffer_{};
};

[[noreturn]] void refuse_size(const char* name, int64_t wanted, int64_t got) {
  throw py::value_error(std::string(kOp) + ": " + name + " must hold " + std::to_string(wanted) +
                        " bytes, got " + std::to_string(got));
}

const unsigned char* bytes_of(const Bytes& array, const char* name, int64_t wanted) {
  if (array.size() != wanted) refuse_size(name, wanted, array.size());
  return array.data();
}

template <typename T>
T* elements_of(const ArrayView& array, const char* name, int64_t n) {
  if (array.size() != n) refuse_size(name, n * int64_t(sizeof(T)), array.size() * int64_t(sizeof(T)));
  return array.as<T>();
}

// One field of every record, as an array [C, …] whose rows lie that far apart.
class Field {
 public:
  Field(py::handle array, const char* name) {
    if (PyObject_GetBuffer(array.ptr(), &buffer_, PyBUF_STRIDES | PyBUF_WRITABLE) != 0) {
      throw py::error_already_set();
    }
    if (buffer_.ndim < 1) throw py::value_error(std::string(kOp) + ": " + name + " must be an array");
    bytes_ = buffer_.itemsize;
    for (int i = 1; i < buffer_.ndim; ++i) bytes_ *= buffer_.shape[i];
  }
  Field(Field&& other) noexcept : buffer_(other.buffer_), bytes_(other.bytes_) {
    other.buffer_ = Py_buffer{};
  }
  Field(const Field&) = delete;
  Field& operator=(const Field&) = delete;
  ~Field() { PyBuffer_Release(&buffer_); }

  unsigned char* data() const { return static_cast<unsigned char*>(buffer_.buf); }
  int64_t stride() const { return buffer_.strides[0]; }
  int64_t rows() const { return buffer_.shape[0]; }
  int64_t bytes() const { return bytes_; }  // of a row

 private:
  Py_buffer buffer_{};
  int64_t bytes_ = 0;
};

// A buffer's arrays, which stay alive with this object. Like them it is used by one thread at a time.
class Replay {
 public:
  Replay(int64_t capacity, const py::list& rows, const py::list& extra, py::handle actions,
         py::handle rewards, py::handle terminated, py::handle truncated, py::handle next, py::handle free,
         py::handle pending, py::handle counts, py::handle successor, int64_t n_compared)
      : free_(kOp, free, "free", DType::i64, true),
        successor_(kOp, successor, "successor", DType::i64, true),
        pending_(kOp, pending, "pending", DType::i64, true),
        counts_(kOp, counts, "counts", DType::i64, true) {
    const Field& first = field(next, "next", capacity, 0);
    // The only row of a buffer of one has no distance to the next one.
    ring_.records = {first.data(), capacity == 1 ? 0 : first.stride(),
                     elements_of<int64_t>(successor_, "successor", free_.size())};
    ring_.capacity = capacity;
    field(rewards, "rewards", capacity, offsetof(ReplayRow, reward));
    field(terminated, "terminated", capacity, offsetof(ReplayRow, terminated));
    field(truncated, "truncated", capacity, offsetof(ReplayRow, truncated));
    ring_.action_bytes = field(actions, "actions", capacity, sizeof(ReplayRow)).bytes();
    if (rows.size() != extra.size()) throw py::value_error("ReplayBuffer: every leaf has extra rows");
    for (size_t l = 0; l < rows.size(); ++l) {
      const Field& leaf = field(rows[l], "observations", capacity, -1);
      leaves_.push_back({leaf.data() - ring_.records.memory, nullptr, leaf.bytes()});
      extra_.emplace_back(extra[l], "extra", true);
      bytes_of(extra_.back(), "extra", leaves_.back().bytes * free_.size());
      leaves_.back().extra = extra_.back().data();
    }
    ring_.n_leaves = int64_t(leaves_.size());
    ring_.n_compared = n_compared;
    if (n_compared < 0 || n_compared > ring_.n_leaves) {
      throw py::value_error("ReplayBuffer: n_compared must be the number of the observation's leaves");
    }
    ring_.leaves = leaves_.data();
    ring_.free = free_.as<int64_t>();
    ring_.pending = pending_.as<int64_t>();
    ring_.counts = elements_of<int64_t>(counts_, "counts", 2);
  }

  void push(const py::list& observations, const py::list& others, py::handle given_envs,
            py::handle given_next_index, py::handle given_actions, py::handle given_rewards,
            py::handle given_terminated, py::handle given_truncated, py::handle given_joins) {
    const ArrayView envs(kOp, given_envs, "envs", DType::i64, false);
    const ArrayView next_index(kOp, given_next_index, "next_index", DType::i64, false);
    const ArrayView rewards(kOp, given_rewards, "rewards", DType::f32, false);
    const ArrayView terminated(kOp, given_terminated, "terminated", DType::b8, false);
    const ArrayView truncated(kOp, given_truncated, "truncated", DType::b8, false);
    const Bytes joins(given_joins, "joins", false);
    const Bytes actions(given_actions, "actions", false);
    ReplayPush push{};
    const int64_t n = push.n = rewards.size();
    push.envs = elements_of<int64_t>(envs, "envs", n);
    push.next_index = elements_of<int64_t>(next_index, "next_index", n);
    push.rewards = rewards.as<float>();
    push.terminated = elements_of<uint8_t>(terminated, "terminated", n);
    push.truncated = elements_of<uint8_t>(truncated, "truncated", n);
    push.joins = bytes_of(joins, "joins", n);
    push.actions = bytes_of(actions, "actions", n * ring_.action_bytes);
    if (observations.size() != leaves_.size() || others.size() != leaves_.size()) {
      throw py::value_error("ReplayBuffer: observations must have as many leaves as before");
    }
    std::vector<Bytes> given;
    std::vector<const unsigned char*> from, other;
    int64_t n_others = INT64_MAX, copied = 0;  // leaves without bytes fit any number
    for (size_t l = 0; l < leaves_.size(); ++l) {
      given.emplace_back(observations[l], "observations", false);
      from.push_back(bytes_of(given.back(), "observations", n * leaves_[l].bytes));
      given.emplace_back(others[l], "next_observations", false);
      if (leaves_[l].bytes > 0) n_others = given.back().size() / leaves_[l].bytes;
      other.push_back(bytes_of(given.back(), "next_observations", n_others * leaves_[l].bytes));
      copied += 2 * n * leaves_[l].bytes;
    }
    push.observations = from.data();
    push.others = other.data();
    for (int64_t r = 0; r < n; ++r) {
      if (!(push.rewards[r] - push.rewards[r] == 0.0f)) {
        throw py::value_error("ReplayBuffer: rewards must be finite, got " +
                              std::string(py::repr(py::float_(push.rewards[r]))) + " at position " +
                              std::to_string(r));
      }
      if (push.envs[r] < 0 || push.envs[r] >= pending_.size() || push.next_index[r] >= n ||
          ~push.next_index[r] >= n_others) {
        throw py::value_error("ReplayBuffer: envs or next_index lead nowhere at position " +
                              std::to_string(r));
      }
    }
    const int64_t used = free_.size() - ring_.counts[1];
    if (free_.size() < std::min(ring_.capacity, used + n)) {
      throw std::runtime_error("ReplayBuffer: there are too few extra rows");
    }
    run_kernel(copied / int64_t(sizeof(float)),
               [&] { dispatch_simd([&](auto path) { replay_push_cpu<path>(ring_, push); }); });
  }

  // Fills the arrays, n rows each.
  void gather(py::handle given_indices, int64_t n_step, double gamma, const py::list& observations,
              const py::list& next_observations, py::handle given_actions, py::handle given_rewards,
              py::handle given_discounts, py::handle given_terminated, py::handle given_steps) {
    const ArrayView indices(kOp, given_indices, "indices", DType::i64, false);
    const ArrayView rewards(kOp, given_rewards, "rewards", DType::f32, true);
    const ArrayView discounts(kOp, given_discounts, "discounts", DType::f32, true);
    const ArrayView terminated(kOp, given_terminated, "terminated", DType::b8, true);
    const Bytes steps(given_steps, "n_steps", true);
    const Bytes actions(given_actions, "actions", true);
    const int64_t n = indices.size();
    require_rows(kOp, indices.as<int64_t>(), n, std::min(ring_.counts[0], ring_.capacity));
    ReplayTargets<float> targets{};
    targets.n = n;
    targets.indices = indices.as<int64_t>();
    targets.n_step = n_step;
    targets.gamma = gamma;
    targets.rewards = elements_of<float>(rewards, "rewards", n);
    targets.discounts = elements_of<float>(discounts, "discounts", n);
    targets.terminated = elements_of<uint8_t>(terminated, "terminated", n);
    bytes_of(steps, "n_steps", n * int64_t(sizeof(int32_t)));
    targets.steps = reinterpret_cast<int32_t*>(steps.data());
    bytes_of(actions, "actions", n * ring_.action_bytes);
    std::vector<Bytes> out;
    std::vector<unsigned char*> own, next;
    int64_t copied = 0;
    for (size_t l = 0; l < leaves_.size(); ++l) {
      out.emplace_back(observations[l], "observations", true);
      bytes_of(out.back(), "observations", n * leaves_[l].bytes);
      own.push_back(out.back().data());
      out.emplace_back(next_observations[l], "next_observations", true);
      bytes_of(out.back(), "next_observations", n * leaves_[l].bytes);
      next.push_back(out.back().data());
      copied += 2 * n * leaves_[l].bytes;
    }
    std::vector<int64_t> after(static_cast<size_t>(n));
    targets.after = after.data();
    const ReplayGather batch{targets, actions.data(), own.data(), next.data()};
    run_kernel(copied / int64_t(sizeof(float)),
               [&] { dispatch_simd([&](auto path) { replay_draw_cpu<path>(ring_, batch); }); });
  }

 private:
  // Keeps the array; it must be where a record has it (offset −1: anywhere in the record).
  const Field& field(py::handle array, const char* name, int64_t capacity, int64_t offset) {
    fields_.emplace_back(array, name);
    const Field& found = fields_.back();
    const bool first = fields_.size() == 1;
    const int64_t at = first ? 0 : found.data() - ring_.records.memory;
    const bool apart = capacity > 1 && !first && found.bytes() > 0 && found.stride() != ring_.records.bytes;
    if (found.rows() != capacity || apart || (offset >= 0 && at != offset)) {
      throw py::value_error(std::string(kOp) + ": " + name + " must be a field of the records");
    }
    return found;
  }

  ArrayView free_, successor_, pending_, counts_;
  std::vector<Field> fields_;
  std::vector<Bytes> extra_;
  std::vector<ReplayLeaf> leaves_;
  ReplayRing ring_{};
};

// What the learners' kernels gather, alone, for the tests. actions: of the buffer's own kind.
template <typename T>
void gather_as(const ReplaySource& source, const TensorView& index, int64_t n_step, double gamma,
               TensorReader& reader, const Arguments& given, DType dtype) {
  const int64_t n = index.shape[0];
  ReplayMinibatch<T> batch{};
  std::vector<int64_t> after(static_cast<size_t>(n));
  batch.targets.n = n;
  batch.targets.indices = index.as<int64_t>();
  batch.targets.n_step = n_step;
  batch.targets.gamma = gamma;
  batch.targets.after = after.data();
  batch.observations_stride = batch.next_stride = source.features;
  batch.actions_stride = source.action_width;
  const auto out = [&](int at, const char* name, int64_t width) {
    return reader.read(given[at], name, dtype, "[B, D]", {n, width}).template as<T>();
  };
  batch.observations = out(4, "observations", source.features);
  batch.next_observations = out(5, "next_observations", source.features);
  if (source.actions == nullptr) {
    batch.discrete_actions = reader.read(given[6], "actions", DType::i64, "[B]", {n}).as<int64_t>();
  } else {
    batch.actions = out(6, "actions", source.action_width);
  }
  batch.targets.rewards = reader.read(given[7], "rewards", dtype, "[B]", {n}).template as<T>();
  batch.targets.discounts = reader.read(given[8], "discounts", dtype, "[B]", {n}).template as<T>();
  dispatch_simd([&](auto path) { replay_gather_cpu<path>(source, batch); });
}

// (view, indices, n_step, gamma, observations, next_observations, actions, rewards, discounts)
py::object replay_gather(const Arguments& given) {
  const ReplaySource source = read_replay("replay_gather", given[0]);
  TensorReader reader("replay_gather");
  const TensorView index = reader.first(given[1], "indices", {DType::i64}, "[B]", {1});
  require_rows("replay_gather", index.as<int64_t>(), index.shape[0], source.size);
  const int64_t n_step = read_integer("replay_gather", "n_step", given[2]);
  const double gamma = read_number("replay_gather", "gamma", given[3]);
  const TensorView wanted = reader.first(given[4], "observations", {DType::f32, DType::f64}, "[B, D]", {2});
  if (wanted.dtype == DType::f32) {
    gather_as<float>(source, index, n_step, gamma, reader, given, DType::f32);
  } else {
    gather_as<double>(source, index, n_step, gamma, reader, given, DType::f64);
  }
  return py::none();
}

}  // namespace

void bind_replay(py::module_& m) {
  py::class_<Replay>(m, "Replay")
      .def(py::init<int64_t, const py::list&, const py::list&, py::handle, py::handle, py::handle, py::handle,
                    py::handle, py::handle, py::handle, py::handle, py::handle, int64_t>())
      .def("push", &Replay::push)
      .def("gather", &Replay::gather);
  BoundStruct<UniformDraws>(m, "UniformDraws", Positional::yes).required<&UniformDraws::indices>("indices");
  fast_function<&replay_gather, 9>(m, "replay_gather");
}

}  // namespace optix_fast
