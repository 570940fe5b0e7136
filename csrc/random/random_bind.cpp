#include "random.h"

#include <pybind11/stl.h>

#include <array>
#include <memory>

#include "philox.h"
#include "tensor.h"

namespace optix_fast {
namespace {

uint64_t blocks_for(int64_t words) { return static_cast<uint64_t>((words + 3) / 4); }

// The bare generator, for the published test vectors.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const PhiloxBlock block = philox_rounds({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

// Each call fills `out` and returns the number of blocks it consumed.

uint64_t random_words(uint64_t key, uint64_t offset, py::handle out) {
  const ArrayView array("random_words", out, "out", DType::u32, true);
  const int64_t n = array.size();
  run_kernel(n, [&] {
    dispatch_simd([&](auto path) { random_words_cpu<path>(key, offset, n, array.as<uint32_t>()); });
  });
  return blocks_for(n);
}

uint64_t random_uniform(uint64_t key, uint64_t offset, py::handle out) {
  const ArrayView array("random_uniform", out, "out", DType::f32, true);
  const int64_t n = array.size();
  run_kernel(n, [&] {
    dispatch_simd([&](auto path) { random_uniform_cpu<path>(key, offset, n, array.as<float>()); });
  });
  return blocks_for(n);
}

uint64_t random_normal(uint64_t key, uint64_t offset, py::handle out) {
  const ArrayView array("random_normal", out, "out", DType::f32, true);
  const int64_t n = array.size();
  run_kernel(n, [&] {
    dispatch_simd([&](auto path) { random_normal_cpu<path>(key, offset, n, array.as<float>()); });
  });
  return blocks_for(n + n % 2);
}

uint64_t random_integers(uint64_t key, uint64_t offset, int64_t low, int64_t high, py::handle out) {
  const ArrayView array("random_integers", out, "out", DType::i64, true);
  const uint64_t span = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  const int64_t n = array.size();
  run_kernel(n, [&] {
    dispatch_simd(
        [&](auto path) { random_integers_cpu<path>(key, offset, low, span, n, array.as<int64_t>()); });
  });
  return blocks_for(2 * n);
}

uint64_t random_permutation(uint64_t key, uint64_t offset, py::handle out) {
  const ArrayView array("random_permutation", out, "out", DType::i64, true);
  const int64_t n = array.size();
  run_kernel(n, [&] {
    const std::unique_ptr<uint64_t[]> words(new uint64_t[2 * n]);  // not make_unique, which would clear them
    const std::unique_ptr<int64_t[]> bucket_ends(new int64_t[int64_t(1) << bucket_bits(n)]);
    dispatch_simd([&](auto path) {
      random_permutation_cpu<path>(key, offset, n, words.get(), words.get() + n, bucket_ends.get(),
                                   array.as<int64_t>());
    });
  });
  return blocks_for(2 * n);
}

}  // namespace

void bind_random(py::module_& m) {
  m.def("philox", &philox);
  m.def("random_words", &random_words);
  m.def("random_uniform", &random_uniform);
  m.def("random_normal", &random_normal);
  m.def("random_integers", &random_integers);
  m.def("random_permutation", &random_permutation);
}

}  // namespace optix_fast
