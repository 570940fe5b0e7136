#include "act.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "bound_struct.h"
#include "fast_call.h"
#include "guards.h"
#include "mlp/mlp_bind.h"

namespace optix_fast {
namespace {

constexpr const char* kOp = "act";
using View = std::unique_ptr<ArrayView>;

View view_of(py::handle array, const char* name, DType dtype, bool writable, int64_t size) {
  if (array.is_none()) return nullptr;
  View view(new ArrayView(kOp, array, name, dtype, writable));
  if (view->size() != size) {
    throw py::value_error(std::string(kOp) + ": " + name + " must hold " + std::to_string(size) +
                          " numbers, got " + std::to_string(view->size()));
  }
  return view;
}

// Observations of one call: float32 or float64 [N, D], rows adjacent; or anything else, which is not served.
class Observations {
 public:
  Observations(py::handle array, int64_t rows, int64_t features) {
    if (PyObject_GetBuffer(array.ptr(), &buffer_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
      PyErr_Clear();
      return;
    }
    const char* format = buffer_.format == nullptr ? "B" : buffer_.format;
    served_ = (format[0] == 'f' || format[0] == 'd') && format[1] == 0 && buffer_.ndim == 2 &&
              buffer_.shape[0] == rows && buffer_.shape[1] == features;
    wide_ = format[0] == 'd';
  }
  ~Observations() { PyBuffer_Release(&buffer_); }
  Observations(const Observations&) = delete;
  Observations& operator=(const Observations&) = delete;

  bool served() const { return served_; }
  const float* narrow() const { return wide_ ? nullptr : static_cast<const float*>(buffer_.buf); }
  const double* wide() const { return wide_ ? static_cast<const double*>(buffer_.buf) : nullptr; }

 private:
  Py_buffer buffer_{};
  bool served_ = false, wide_ = false;
};

// The columns that rows of actions are written to: [T, N] and [T, N, width], `width` numbers in an action.
class ActTargets {
 public:
  ActTargets(int64_t steps, int64_t envs, int64_t width, bool normal, py::handle given_actions,
             py::handle given_log_probs, py::handle given_values, py::handle given_raw)
      : steps_(steps), envs_(envs), width_(width) {
    const int64_t n = steps * envs;
    wide_ = normal && py::cast<int>(given_actions.attr("itemsize")) == 8;
    const DType kind = !normal ? DType::i64 : wide_ ? DType::f64 : DType::f32;
    actions_ = view_of(given_actions, "actions", kind, true, n * width);
    log_probs_ = view_of(given_log_probs, "log_probs", DType::f32, true, n);
    values_ = view_of(given_values, "values", DType::f32, true, n);
    raw_ = view_of(given_raw, "pre_tanh", DType::f32, true, n * width);
  }

  int64_t envs() const { return envs_; }

  void point(int64_t t, ActArgs& args) const {
    if (t < 0 || t >= steps_) throw py::index_error("act: t must be a row of the window");
    const int64_t row = t * envs_, from = row * width_;
    if (args.kind != PolicyKind::normal) {
      args.discrete_actions = actions_->as<int64_t>() + from;
    } else if (wide_) {
      args.wide_actions = actions_->as<double>() + from;
    } else {
      args.actions = actions_->as<float>() + from;
    }
    args.log_probs = log_probs_ == nullptr ? nullptr : log_probs_->as<float>() + row;
    args.values = values_ == nullptr ? nullptr : values_->as<float>() + row;
    args.raw = raw_ == nullptr ? nullptr : raw_->as<float>() + from;
  }

 private:
  int64_t steps_, envs_, width_;
  bool wide_ = false;
  View actions_, log_probs_, values_, raw_;
};

// A policy's shapes, and where its parameters are to be found: in the modules' own dicts, read at every call.
// The critic may have no layers; there are no values then.
class ActPlan {
 public:
  ActPlan(const py::tuple& networks, int64_t features, py::handle kind, py::object log_std, bool squash,
          const py::list& components, const py::object& bounds, const py::list& guards)
      : kind_(static_cast<PolicyKind>(read_name(kOp, "kind", kind, kPolicyKindNames))),
        squash_(squash),
        features_(features),
        log_std_(std::move(log_std)) {
    if (kind_ == PolicyKind::hybrid) throw py::value_error("act: the core does not act for a hybrid policy");
    for (int i = 0; i < 3; ++i) {
      const int64_t in = i == 0 || layers_[0].empty() ? features_ : layers_[0].back().out;
      for (py::handle item : networks[i]) add_layer(py::cast<py::tuple>(item), in, layers_[i]);
      stacks_[i] = stack_of(layers_[i], i > 0);
    }
    if (layers_[1].empty()) throw py::value_error("act: the actor must have a layer of its own");
    outputs_ = layers_[1].back().out;
    width_ = normal() && log_std_.is_none() ? outputs_ / 2 : outputs_;
    int64_t total = 0;
    for (py::handle item : components) {
      const auto pair = py::cast<py::tuple>(item);
      nvec_.push_back(py::cast<int64_t>(pair[0]));
      first_action_.push_back(py::cast<int64_t>(pair[1]));
      total += nvec_.back();
    }
    if (!normal() &&
        (nvec_.empty() || total != width_ || *std::min_element(nvec_.begin(), nvec_.end()) < 1)) {
      throw py::value_error("act: components must have one or more actions each, in all as many as outputs");
    }
    if (normal()) {
      const auto given = py::cast<py::tuple>(bounds);
      for (int i = 0; i < 4; ++i) bounds_[i] = view_of(given[i], "bounds", DType::f32, false, width_);
    }
    for (py::handle item : guards) guards_.push_back(py::cast<const Guards&>(item));
  }

  int64_t width() const { return width_; }
  int64_t features() const { return features_; }

  void normalize(py::handle mean, py::handle variance, double clip) {
    mean_ = view_of(mean, "mean", DType::f64, false, features_);
    variance_ = view_of(variance, "var", DType::f64, false, features_);
    clip_ = clip;
  }

  void explore(float epsilon) { epsilon_ = epsilon; }

  // False where the description of the networks is no longer true: nothing was done then.
  bool current() {
    for (const Guards& guards : guards_) {
      if (!guards.hold()) return false;
    }
    return read_pointers();
  }

  // Blocks of the random stream that were used; −1 where the policy returned NaN or infinity, −2 where the
  // observations are not served.
  int64_t run(const ActTargets& targets, int64_t t, py::handle seen, py::handle mask, bool deterministic,
              uint64_t key, uint64_t offset) {
    const int64_t rows = targets.envs();
    const Observations observations(seen, rows, features_);
    if (!observations.served()) return -2;
    const View allowed = view_of(mask, "action_masks", DType::b8, false, rows * width_);
    ActArgs args{};
    args.kind = kind_;
    args.width = width_;
    args.rows = rows;
    args.features = features_;
    args.observations = observations.narrow();
    args.wide_observations = observations.wide();
    if (mean_ != nullptr) {
      args.mean = mean_->as<double>();
      args.variance = variance_->as<double>();
      args.clip = clip_;
    }
    args.action_mask = allowed == nullptr ? nullptr : allowed->as<uint8_t>();
    args.log_std = free_log_std_;
    args.deterministic = deterministic;
    args.squash = squash_;
    args.epsilon = epsilon_;
    if (normal()) {
      const float** wanted[] = {&args.scale, &args.offset, &args.low, &args.high};
      for (int i = 0; i < 4; ++i) *wanted[i] = bounds_[i]->as<float>();
    }
    args.key = key;
    args.stream_offset = offset;
    args.components = static_cast<int64_t>(nvec_.size());
    args.nvec = nvec_.data();
    args.first_action = first_action_.data();
    targets.point(t, args);
    if (layers_[2].empty()) args.values = nullptr;
    if (rows > room_) make_room(rows);
    borrow_memory(args);
    ActFault fault;
    run_kernel(rows * work_, [&] { fault = dispatch_simd([&](auto path) { return act_cpu<path>(args); }); });
    if (fault == ActFault::row_masked) throw py::value_error("action_masks: a row allows no action");
    if (fault == ActFault::non_finite) return -1;
    if (deterministic) return 0;
    int64_t words = rows * static_cast<int64_t>(nvec_.size());
    if (normal()) words = rows * width_ + (rows * width_) % 2;
    if (kind_ == PolicyKind::greedy) words = 2 * rows;
    return (words + 3) / 4;
  }

 private:
  struct Source {
    py::dict parameters, buffers;
    bool has_weight, has_bias;
    py::object weight, bias, mean, var;  // as they were when they were last checked in full
  };

  // The parts of mlp_bind.h, where a weight and a bias are True if the layer has them, and the state is the dict
  // of its buffers; then the dict of its parameters; then the rows of an embedding.
  void add_layer(const py::tuple& item, int64_t in, std::vector<Layer<float>>& layers) {
    Layer<float> layer = read_layer<float>(kOp, item, in, layers);
    layer.entries = py::cast<int64_t>(item[kLayerParts + 1]);
    sources_.push_back({py::cast<py::dict>(item[kLayerParts]),
                        py::cast<py::dict>(item[kState]),
                        item[kWeight].ptr() == Py_True,
                        item[kBias].ptr() == Py_True,
                        {},
                        {},
                        {},
                        {}});
    if (layer.kind == LayerKind::dense && !sources_.back().has_weight) {
      throw py::value_error("act: a dense layer must have a weight");
    }
    work_ += layer.kind == LayerKind::dense ? layer.in * layer.out / 16 : layer.out;
    layers.push_back(layer);
  }

  // The parameters' memory as it is now; false where a parameter is not what it was.
  bool read_pointers() {
    static const py::str weight_key("weight"), bias_key("bias"), mean_key("running_mean"),
        var_key("running_var");
    size_t at = 0;
    for (auto& layers : layers_) {
      for (Layer<float>& l : layers) {
        Source& source = sources_[at++];
        if ((!source.has_weight && is_there(source.parameters, weight_key)) ||
            (!source.has_bias && is_there(source.parameters, bias_key))) {
          return false;
        }
        if (source.has_weight) {
          const int64_t shape[] = {l.kind == LayerKind::embedding ? l.entries : l.out,
                                   l.kind == LayerKind::dense ? l.in : l.out};
          l.weight = find(source.parameters, weight_key, source.weight, shape, is_norm(l.kind) ? 1 : 2);
          if (l.weight == nullptr) return false;
        }
        if (source.has_bias) {
          l.bias = find(source.parameters, bias_key, source.bias, &l.out, 1);
          if (l.bias == nullptr) return false;
        }
        if (is_batch_norm(l.kind)) {
          l.running.mean = find(source.buffers, mean_key, source.mean, &l.out, 1);
          l.running.var = find(source.buffers, var_key, source.var, &l.out, 1);
          if (l.running.mean == nullptr || l.running.var == nullptr) return false;
        }
        if (l.kind == LayerKind::dense)
          l.weight_rows = l.weight_padded == nullptr ? l.weight : l.weight_padded;
      }
    }
    if (!log_std_.is_none()) {
      const int64_t shape[] = {width_};
      free_log_std_ = static_cast<const float*>(memory_of(log_std_, DType::f32, shape, 1));
      if (free_log_std_ == nullptr) return false;
    }
    return true;
  }

  static bool is_there(const py::dict& parameters, const py::str& key) {
    PyObject* found = PyDict_GetItemWithError(parameters.ptr(), key.ptr());
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return found != nullptr && found != Py_None;
  }

  // The memory of a module's parameter; null where it is not a float32 tensor of that shape. `known` is the
  // object that was there last: another one is checked in full.
  static float* find(const py::dict& parameters, const py::str& key, py::object& known, const int64_t* shape,
                     int32_t ndim) {
    PyObject* found = PyDict_GetItemWithError(parameters.ptr(), key.ptr());
    if (found == nullptr || found == Py_None) {
      if (PyErr_Occurred()) throw py::error_already_set();
      return nullptr;
    }
    if (found != known.ptr()) {
      try {
        TensorReader(kOp).read(found, "parameter", DType::f32, "", shape, ndim);
      } catch (const py::builtin_exception&) {
        return nullptr;
      }
      known = py::reinterpret_borrow<py::object>(found);
    }
    return static_cast<float*>(memory_of(known, DType::f32, shape, ndim));
  }

  // Work memory for so many rows; the layers' own only where the matrix kernel will run.
  void make_room(int64_t rows) {
    room_ = 0;
    Arena counting(nullptr);
    place(rows, counting);
    memory_.reset(static_cast<unsigned char*>(std::aligned_alloc(64, counting.used())));
    if (memory_ == nullptr) throw std::bad_alloc();
    std::memset(memory_.get(), 0, counting.used());
    Arena arena(memory_.get());
    place(rows, arena);
    room_ = rows;
  }

  void place(int64_t rows, Arena& arena) {
    line_stride_ = padded<float>(features_);
    int64_t layers = 0;
    for (const Stack<float>& stack : stacks_) {
      line_stride_ = std::max(line_stride_, padded<float>(widest(stack)));
      layers = std::max(layers, stack.n);
      if (rows >= kFewRows) stack_place(stack, rows, arena);
    }
    input_ = arena.take<float>(whole_rows(rows) * padded<float>(features_));
    lines_ = arena.take<float>(layers * line_stride_);
    shared_ = arena.take<float>(rows * line_stride_);
    final_ = arena.take<float>(rows * padded<float>(outputs_));
    numbers_ =
        arena.take<float>(padded<float>(rows * std::max<int64_t>(width_, 2)) + 2 * padded<float>(width_));
  }

  void borrow_memory(ActArgs& args) const {
    args.trunk = stacks_[0];
    args.actor = stacks_[1];
    args.critic = stacks_[2];
    args.input = input_;
    args.lines = lines_;
    args.line_stride = line_stride_;
    args.shared = shared_;
    args.outputs = final_;
    args.numbers = numbers_;
  }

  struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
  };

  bool normal() const { return kind_ == PolicyKind::normal; }

  PolicyKind kind_;
  bool squash_;
  int64_t features_;
  float epsilon_ = 0;
  std::vector<int64_t> nvec_, first_action_;  // of each component of a discrete action
  int64_t outputs_ = 0, width_ = 0, work_ = 1;
  py::object log_std_;
  const float* free_log_std_ = nullptr;
  std::vector<Layer<float>> layers_[3];
  std::vector<Source> sources_;
  Stack<float> stacks_[3];
  std::vector<Guards> guards_;
  View bounds_[4], mean_, variance_;
  double clip_ = 0;
  int64_t room_ = 0, line_stride_ = 0;
  std::unique_ptr<unsigned char, Free> memory_;
  float *input_ = nullptr, *lines_ = nullptr, *shared_ = nullptr, *final_ = nullptr, *numbers_ = nullptr;
};

enum ActArgument { kPlan, kTargets, kRow, kObservations, kMask, kDeterministic, kKey, kOffset, kArguments };

// What run() returns, False where the observations are not served, None where the plan is no longer true.
py::object act_entry(const Arguments& given) {
  auto& plan = py::cast<ActPlan&>(given[kPlan]);
  if (!plan.current()) return py::none();
  const uint64_t key = PyLong_AsUnsignedLongLong(given[kKey].ptr());
  const uint64_t offset = PyLong_AsUnsignedLongLong(given[kOffset].ptr());
  if (PyErr_Occurred()) throw py::error_already_set();
  const int64_t blocks =
      plan.run(py::cast<const ActTargets&>(given[kTargets]), read_integer(kOp, "t", given[kRow]),
               given[kObservations], given[kMask], given[kDeterministic].ptr() == Py_True, key, offset);
  return blocks == -2 ? py::object(py::bool_(false)) : py::object(py::int_(blocks));
}

}  // namespace

void bind_act(py::module_& m) {
  py::class_<ActPlan>(m, "ActPlan")
      .def(py::init<const py::tuple&, int64_t, py::handle, py::object, bool, const py::list&,
                    const py::object&, const py::list&>())
      .def("normalize", &ActPlan::normalize)
      .def("explore", &ActPlan::explore)
      .def("current", &ActPlan::current)
      .def_property_readonly("width", &ActPlan::width)
      .def_property_readonly("features", &ActPlan::features);
  py::class_<ActTargets>(m, "ActTargets")
      .def(py::init<int64_t, int64_t, int64_t, bool, py::handle, py::handle, py::handle, py::handle>());
  fast_function<&act_entry, kArguments>(m, "act");
}

}  // namespace optix_fast
