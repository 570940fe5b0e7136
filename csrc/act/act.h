// From observations to actions in one call: normalise, forward actor and critic, draw the action, and with it
// its log-probability and the value.
//
//   x      (o − mean) / √(var + 1e-8) in double, clipped to ±clip, as envs/normalizers.py; or o itself
//   actor  trunk → actor stack, critic: trunk → critic stack (mlp.h)
//
//   greedy       the outputs are action values Q; with probability ε an allowed action, each equally likely,
//                else the one of the greatest Q, the first of equals. Deterministic: ε = 0.
//   categorical  (each component of a multi_discrete is one)
//                log p = log softmax of the logits, a masked action's being −∞;
//                action = how many k have cum_k ≤ u·cum_K, u uniform: the first whose cumulative probability
//                exceeds u. Deterministic: the most probable, the first of equals.
//   normal       raw = mean + e^log_std·ε, ε normal, log_std clamped to [−5, 2]. Deterministic: the mean.
//                log-probability: the Gaussian's, summed over A, of raw.
//                action = clip(tanh(raw)·scale + offset, low, high), or clip(raw, low, high) unsquashed
//
// The random numbers are those of random.h for (key, offset): N uniforms, or N·A normals; greedy: 2·N
// uniforms, the first N of which say who explores.
//
// Memory: rows N, columns as named. Nothing of the networks is kept between calls.
//
// CPU: fewer than 8 rows are computed one by one from torch's own weights, as dot products, 16 outputs at a
// time. From 8 rows on, the transposed copies that the matrix kernel needs pay for themselves.
#pragma once

#include "mlp/mlp.h"
#include "policy_kind.h"

namespace optix_fast {

constexpr int64_t kFewRows = 8;  // below this many, row by row

struct ActArgs {
  Stack<float> trunk, actor, critic;
  PolicyKind kind;  // not hybrid
  int64_t width;  // K of a categorical, multi_discrete (the sum over its components) or greedy, A of a normal
  int64_t rows, features;

  const float* observations;        // [N, D], or null and
  const double* wide_observations;  // [N, D]
  const double* mean;               // [D], or null: not normalised
  const double* variance;           // [D]
  double clip;                      // 0: none
  const uint8_t* action_mask;       // [N, K], or null

  const float* log_std;  // [A] free, or null: the actor's second half
  bool deterministic, squash;
  float epsilon;
  const float *scale, *offset, *low, *high;  // [A]
  uint64_t key, stream_offset;

  int64_t components;           // C of a categorical: 1, or those of a MultiDiscrete space
  const int64_t* nvec;          // [C], K of each component; their sum is `width`
  const int64_t* first_action;  // [C], of the space
  int64_t* discrete_actions;    // [N], or [N, C]
  float* actions;               // [N, A], or null and
  double* wide_actions;         // [N, A]
  float* raw;                   // [N, A], or null: not wanted
  float* log_probs;             // [N], or null: not wanted
  float* values;                // [N], or null: not wanted

  // Work memory.
  float* input;         // [N, padded(D)]
  float* lines;         // rows of line_stride, as many as the longest stack has layers
  int64_t line_stride;  // padded(widest layer)
  float* shared;        // [N, padded(trunk outputs)], zero behind the last output
  float* outputs;       // [N, actor outputs], and a line more
  float* numbers;       // N·C, 2·N or N·A random ones, and 2 rows of padded(width)
};

enum class ActFault : uint8_t { none, non_finite, row_masked };

template <SimdPath Path>
ActFault act_cpu(const ActArgs& args);

}  // namespace optix_fast
