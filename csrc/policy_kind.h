// How a policy's outputs are distributed, for acting and for the losses. The names are Python's.
#pragma once

#include <cstdint>

namespace optix_fast {

//   categorical     logits of one action                    [B, K]
//   normal          mean ‖ log_std of a Gaussian            [B, 2A]
//   multi_discrete  logits of one component after the other [B, ΣK_c]
//   hybrid          multi_discrete's, then normal's         [B, ΣK_c + 2A]
//   greedy          values of the actions                   [B, K]
enum class PolicyKind : uint8_t { categorical, normal, multi_discrete, hybrid, greedy };
constexpr const char* kPolicyKindNames[] = {"categorical", "normal", "multi_discrete", "hybrid", "greedy"};

}  // namespace optix_fast
