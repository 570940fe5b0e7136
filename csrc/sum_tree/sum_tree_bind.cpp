#include "sum_tree_bind.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "priorities_bind.h"

namespace optix_fast {
namespace {

// One member of a batch costs about thirty times an element of a streaming kernel.
constexpr int64_t kReleaseGilFromBatch = kReleaseGilFrom / 32;

// β as a float that stays finite: 0 · ∞ would make the greatest weight a NaN.
float weight_power(double beta) { return static_cast<float>(beta < 1e30 ? beta : 1e30); }

// (min p / p)^β alone, for the tests.
void sum_tree_weights(py::handle priorities, double beta, py::handle weights) {
  TensorReader reader("sum_tree_weights");
  const TensorView from = reader.first(priorities, "priorities", {DType::f32}, "[n]", {1});
  const TensorView to = reader.read(weights, "weights", DType::f32, "[n]", {from.shape[0]});
  dispatch_simd([&](auto path) {
    sum_tree_weights_cpu<path>(from.shape[0], from.as<float>(), weight_power(beta), to.as<float>());
  });
}

class SumTree {
 public:
  SumTree(int64_t capacity, uint64_t key, uint64_t offset) : key_(key), offset_(offset) {
    const int64_t bytes = lay_out(tree_, checked_capacity(capacity), false, nullptr);
    // Zeroed lazily by the system where it is large, so an empty tree costs no memory.
    memory_.reset(std::calloc(static_cast<size_t>(bytes + kTreeLineBytes), 1));
    if (memory_ == nullptr) {
      PyErr_Format(PyExc_MemoryError, "SumTree: capacity %lld needs %lld bytes, which could not be allocated",
                   static_cast<long long>(capacity), static_cast<long long>(bytes));
      throw py::error_already_set();
    }
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    lay_out(tree_, capacity, false, reinterpret_cast<char*>(round_up(int64_t(address), kTreeLineBytes)));
  }

  void update(py::handle indices, py::handle priorities) {
    TensorReader reader(kOp);
    const Vector index(reader, true, indices, "indices", DType::i64, "[B]", 0);
    require_cpu(index, "indices");
    SumTreeBatch batch{index.size(), index.as<int64_t>(), nullptr, 1};
    float scalar = 0.0f;
    std::unique_ptr<Vector> priority;
    if (PyFloat_Check(priorities.ptr()) || PyLong_Check(priorities.ptr())) {
      const double number = PyFloat_AsDouble(priorities.ptr());
      if (PyErr_Occurred() != nullptr) throw py::error_already_set();
      scalar = static_cast<float>(number);
      batch.priorities = &scalar;
      batch.priorities_stride = 0;
    } else {
      priority =
          std::make_unique<Vector>(reader, false, priorities, "priorities", DType::f32, "[B]", batch.n);
      batch.priorities = priority->as<float>();
    }
    int64_t fault = batch.n;
    locked(batch.n, [&] {
      dispatch_simd([&](auto path) {
        fault = sum_tree_first_fault_cpu<path>(tree_, batch);
        if (fault < batch.n) return;
        reserve(batch.n);
        positive_ += sum_tree_update_cpu<path>(tree_, batch, nodes_.data());
      });
    });
    if (fault == batch.n) return;
    check_index(batch.indices[fault], fault);
    fail_at("priorities", "finite and not negative", batch.priorities[fault * batch.priorities_stride],
            fault);
  }

  void priorities(py::handle indices, py::handle out) {
    TensorReader reader(kOp);
    const Vector index(reader, true, indices, "indices", DType::i64, "[B]", 0);
    require_cpu(index, "indices");
    const Vector priority(reader, false, out, "out", DType::f32, "[B]", index.size());
    const int64_t* at = index.as<int64_t>();
    for (int64_t i = 0; i < index.size(); ++i) check_index(at[i], i);
    locked(index.size(), [&] {
      for (int64_t i = 0; i < index.size(); ++i) priority.as<float>()[i] = tree_.leaves[at[i]];
    });
  }

  void find(py::handle mass, py::handle out) {
    TensorReader reader(kOp);
    const Vector masses(reader, true, mass, "mass", DType::f64, "[B]", 0);
    require_cpu(masses, "mass");
    const int64_t n = masses.size();
    const Vector index(reader, false, out, "out", DType::i64, "[B]", n);
    int64_t fault = n;
    double limit = 0.0;
    locked(n, [&] {
      limit = total_here();
      if (limit == 0.0) return;
      for (fault = 0; fault < n; ++fault) {
        if (!(masses.as<double>()[fault] >= 0.0 && masses.as<double>()[fault] <= limit)) return;
      }
      reserve(n);
      std::copy_n(masses.as<double>(), n, mass_.data());
      dispatch_simd([&](auto path) {
        sum_tree_find_cpu<path>(tree_, n, mass_.data(), index.as<int64_t>(), found_.data(), prefix_.get());
      });
    });
    require_positive(limit);
    if (fault < n) {
      const std::string wanted = "in [0, total] = [0, " + std::string(py::repr(py::float_(limit))) + "]";
      fail_at("mass", wanted, masses.as<double>()[fault], fault);
    }
  }

  // weights: a tensor, or None where none are wanted.
  void sample(py::handle indices, py::handle priorities, py::handle weights, double beta) {
    TensorReader reader(kOp);
    const Vector index(reader, true, indices, "indices", DType::i64, "[n]", 0);
    const int64_t n = index.size();
    const Vector priority(reader, false, priorities, "priorities", DType::f32, "[n]", n);
    float* weight = nullptr;
    if (!weights.is_none())
      weight = Vector(reader, false, weights, "weights", DType::f32, "[n]", n).as<float>();
    double limit = 0.0;
    locked(n, [&] {
      limit = total_here();
      if (limit == 0.0) return;
      reserve(n);
      dispatch_simd([&](auto path) {
        int64_t* at = index.as<int64_t>();
        sum_tree_strata_cpu<path>(limit, key_, offset_, n, mass_.data());
        sum_tree_find_cpu<path>(tree_, n, mass_.data(), at, priority.as<float>(), prefix_.get());
        if (weight != nullptr)
          sum_tree_weights_cpu<path>(n, priority.as<float>(), weight_power(beta), weight);
      });
      offset_ += blocks_of(n);
    });
    require_positive(limit);
  }

  double total() {
    double sum = 0.0;
    locked(0, [&] { sum = total_here(); });
    return sum;
  }

  int64_t positive() {
    int64_t count = 0;
    locked(0, [&] { count = positive_; });
    return count;
  }

  // The leaves and the place in the stream, as one moment.
  py::tuple save(py::handle leaves) {
    TensorReader reader(kOp);
    const Vector out(reader, true, leaves, "priorities", DType::f32, "[capacity]", 0);
    require_size(out);
    uint64_t offset = 0, key = 0;
    locked(tree_.capacity, [&] {
      std::memcpy(out.as<float>(), tree_.leaves, size_t(tree_.capacity) * sizeof(float));
      key = key_;
      offset = offset_;
    });
    return py::make_tuple(key, offset);
  }

  SharedTree share() { return {tree_, &positive_, &mutex_}; }

  // The priorities have been checked.
  void load(py::handle leaves, uint64_t key, uint64_t offset) {
    TensorReader reader(kOp);
    const Vector from(reader, true, leaves, "priorities", DType::f32, "[capacity]", 0);
    require_size(from);
    locked(tree_.capacity, [&] {
      std::memcpy(tree_.leaves, from.as<float>(), size_t(tree_.capacity) * sizeof(float));
      dispatch_simd([&](auto path) { positive_ = sum_tree_rebuild_cpu<path>(tree_); });
      key_ = key;
      offset_ = offset;
    });
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  // One thread at a time. A thread never waits for the lock with the interpreter's lock in its hand, and a
  // short call that finds the tree free keeps the interpreter, because giving it up would cost more.
  template <typename Work>
  void locked(int64_t n, Work&& work) {
    if (n < kReleaseGilFromBatch) {
      const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      if (lock.owns_lock()) return work();
    }
    const py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    work();
  }

  void reserve(int64_t n) {
    if (int64_t(nodes_.size()) >= n) return;
    nodes_.resize(size_t(n));
    mass_.resize(size_t(n));
    found_.resize(size_t(n));
    prefix_.reset(std::aligned_alloc(kTreeLineBytes, size_t(prefix_scratch(n))));
    if (prefix_ == nullptr) throw std::bad_alloc();
  }

  double total_here() const { return tree_.sums[tree_.levels - 1][0]; }

  static void require_positive(double total) {
    if (total == 0.0) throw py::value_error("SumTree: nothing to draw: every priority is zero");
  }

  void check_index(int64_t index, int64_t at) const {
    if (index >= 0 && index < tree_.capacity) return;
    fail_at("indices", "in [0, capacity) = [0, " + std::to_string(tree_.capacity) + ")", index, at);
  }

  void require_size(const Vector& leaves) const {
    require_cpu(leaves, "priorities");
    if (leaves.size() == tree_.capacity) return;
    throw py::value_error("SumTree: priorities must be float32 [capacity] = [" +
                          std::to_string(tree_.capacity) + "], got float32 [" +
                          std::to_string(leaves.size()) + "]");
  }

  SumTreeView tree_{};
  std::unique_ptr<void, Free> memory_;
  int64_t positive_ = 0;
  uint64_t key_;
  uint64_t offset_;
  std::vector<int64_t> nodes_;  // scratch, as long as the longest batch so far
  std::vector<double> mass_;
  std::vector<float> found_;
  std::unique_ptr<void, Free> prefix_;
  std::mutex mutex_;
};

#ifdef OPTIX_FAST_HAS_CUDA

// The tree of a CUDA device, in storage that torch allocated there. Calls enqueue on torch's current stream
// and keep the interpreter's lock, which makes each of them one step for the other threads.
class SumTreeCuda {
 public:
  static int64_t bytes(int64_t capacity) {
    SumTreeView tree{};
    return kTreeLineBytes + lay_out(tree, checked_capacity(capacity), true, nullptr);
  }

  SumTreeCuda(py::object storage, int64_t capacity, uint64_t key, uint64_t offset)
      : storage_(std::move(storage)), key_(key), offset_(offset) {
    TensorReader reader(kOp);
    const TensorView view = reader.first(storage_, "storage", {DType::u8}, "[bytes]", {1});
    if (!view.is_cuda() || view.shape[0] < bytes(capacity)) {
      throw py::value_error("SumTree: storage must be on cuda, with as many bytes as the tree needs");
    }
    device_ = reader.device_id();
    control_ = view.as<SumTreeControl>();
    lay_out(tree_, capacity, true, view.as<char>() + kTreeLineBytes);
  }

  void update(py::handle indices, py::handle priorities) {
    TensorReader reader(kOp);
    const TensorView index = first(reader, indices, "indices", DType::i64);
    const int64_t n = index.shape[0];
    const TensorView priority = reader.read(priorities, "priorities", DType::f32, "[B]", {n});
    if (n >= INT32_MAX) {
      throw py::value_error("SumTree: indices must be fewer than 2**31 - 1 on cuda, got " +
                            std::to_string(n));
    }
    const SumTreeBatch batch{n, index.as<int64_t>(), priority.as<float>(), 1};
    require(sum_tree_update_cuda(tree_, control_, batch, device_, reader.cuda_stream()));
  }

  void priorities(py::handle indices, py::handle out) {
    TensorReader reader(kOp);
    const TensorView index = first(reader, indices, "indices", DType::i64);
    const TensorView priority = reader.read(out, "out", DType::f32, "[B]", {index.shape[0]});
    require(sum_tree_gather_cuda(tree_, control_, index.shape[0], index.as<int64_t>(), priority.as<float>(),
                                 device_, reader.cuda_stream()));
  }

  void find(py::handle mass, py::handle out) {
    TensorReader reader(kOp);
    const TensorView masses = first(reader, mass, "mass", DType::f64);
    const TensorView index = reader.read(out, "out", DType::i64, "[B]", {masses.shape[0]});
    require(sum_tree_find_cuda(tree_, control_, masses.shape[0], masses.as<double>(), index.as<int64_t>(),
                               device_, reader.cuda_stream()));
  }

  void sample(py::handle indices, py::handle priorities, py::handle weights, double beta) {
    TensorReader reader(kOp);
    const TensorView index = first(reader, indices, "indices", DType::i64);
    const int64_t n = index.shape[0];
    const TensorView priority = reader.read(priorities, "priorities", DType::f32, "[n]", {n});
    float* weight = nullptr;
    if (!weights.is_none()) weight = reader.read(weights, "weights", DType::f32, "[n]", {n}).as<float>();
    require(sum_tree_sample_cuda(tree_, control_, key_, offset_, n, beta, index.as<int64_t>(),
                                 priority.as<float>(), weight, device_, reader.cuda_stream()));
    offset_ += blocks_of(n);
  }

  double total() { return read().total; }
  int64_t positive() { return read().positive; }

  // Where the leaves lie, for the tensor operations that copy them in and out.
  int64_t leaves_offset() const { return kTreeLineBytes; }

  py::tuple save() {
    read();
    return py::make_tuple(key_, offset_);
  }

  // The leaves have been written.
  void load(uint64_t key, uint64_t offset) {
    TensorReader reader(kOp);
    first(reader, storage_, "storage", DType::u8);
    require(sum_tree_rebuild_cuda(tree_, control_, device_, reader.cuda_stream()));
    key_ = key;
    offset_ = offset;
  }

 private:
  TensorView first(TensorReader& reader, py::handle object, const char* name, DType dtype) const {
    const TensorView view = reader.first(object, name, {dtype}, "[B]", {1});
    if (!view.is_cuda() || reader.device_id() != device_) {
      throw py::value_error(std::string(kOp) + ": " + name + " must be on cuda:" + std::to_string(device_) +
                            " like the tree");
    }
    return view;
  }

  static void require(const char* error) {
    if (error != nullptr) throw std::runtime_error(std::string("SumTree: a CUDA kernel failed: ") + error);
  }

  SumTreeStatus read() {
    TensorReader reader(kOp);
    first(reader, storage_, "storage", DType::u8);
    void* stream = reader.cuda_stream();
    SumTreeStatus status{};
    const char* error = nullptr;
    {
      const py::gil_scoped_release release;
      error = sum_tree_read_cuda(tree_, control_, &status, device_, stream);
    }
    require(error);
    const char* const said[] = {"", "indices were outside [0, capacity)",
                                "priorities were negative or not finite", "mass was outside [0, total]",
                                "nothing to draw: every priority was zero"};
    if (status.fault != kNoFault) {
      throw py::value_error(std::string(kOp) + ": " + said[status.fault] + " in an earlier call on cuda");
    }
    return status;
  }

  py::object storage_;
  SumTreeView tree_{};
  SumTreeControl* control_ = nullptr;
  int32_t device_ = 0;
  uint64_t key_;
  uint64_t offset_;
};

#endif

}  // namespace

SharedTree share_tree(py::handle tree) {
  if (!py::isinstance<SumTree>(tree)) {
    throw py::type_error(std::string("PrioritizedDraws: tree must be a SumTree on the cpu, got ") +
                         Py_TYPE(tree.ptr())->tp_name);
  }
  return py::cast<SumTree&>(tree).share();
}

void bind_sum_tree(py::module_& m) {
  m.def("sum_tree_weights", &sum_tree_weights);
  py::class_<SumTree>(m, "SumTree")
      .def(py::init<int64_t, uint64_t, uint64_t>())
      .def("update", &SumTree::update)
      .def("priorities", &SumTree::priorities)
      .def("find", &SumTree::find)
      .def("sample", &SumTree::sample)
      .def("total", &SumTree::total)
      .def("positive", &SumTree::positive)
      .def("save", &SumTree::save)
      .def("load", &SumTree::load);
  BoundStruct<PrioritizedDraws>(m, "PrioritizedDraws", Positional::yes)
      .required<&PrioritizedDraws::tree>("tree")
      .required<&PrioritizedDraws::uniforms>("uniforms")
      .required<&PrioritizedDraws::betas>("betas")
      .required<&PrioritizedDraws::alpha>("alpha")
      .required<&PrioritizedDraws::eps>("eps")
      .required<&PrioritizedDraws::max_priority>("max_priority");
#ifdef OPTIX_FAST_HAS_CUDA
  py::class_<SumTreeCuda>(m, "SumTreeCuda")
      .def_static("bytes", &SumTreeCuda::bytes)
      .def(py::init<py::object, int64_t, uint64_t, uint64_t>())
      .def("update", &SumTreeCuda::update)
      .def("priorities", &SumTreeCuda::priorities)
      .def("find", &SumTreeCuda::find)
      .def("sample", &SumTreeCuda::sample)
      .def("total", &SumTreeCuda::total)
      .def("positive", &SumTreeCuda::positive)
      .def("leaves_offset", &SumTreeCuda::leaves_offset)
      .def("save", &SumTreeCuda::save)
      .def("load", &SumTreeCuda::load);
#endif
}

}  // namespace optix_fast
