// Attention over packed rows on a CPU, by this project's kernels: nothing is padded, and weights of
// attention are computed again for the gradient instead of kept. Private to model/: includes torch.
// fp32; at::get_num_threads() threads, and results do not depend on how many.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace tasuki {

// From [tokens, 3 * heads * d_kv] (queries, keys, values) to [tokens, heads * d_kv]: each token
// attends to those of its own sequence. `biases` [heads, 2 * longest - 1] by the distance from
// query to key, plus longest - 1; differentiable.
at::Tensor AttendToSelf(const at::Tensor& rows, const std::vector<int64_t>& lengths,
                        const at::Tensor& biases, double dropout);

// From [queries, heads * d_kv] and [tokens, 2 * heads * d_kv] (keys, values) to
// [queries, heads * d_kv]: each sequence of queries attends to the tokens of the same number.
at::Tensor AttendToOthers(const at::Tensor& queries, const at::Tensor& keys_values,
                          const std::vector<int64_t>& query_lengths,
                          const std::vector<int64_t>& key_lengths, int64_t heads, double dropout);

// The same with keys and values that are never made: scores are (q W_k) · state, answers
// (weights · states) W_vᵀ. For `encoded` [tokens, d_model] and the weights [heads * d_kv, d_model]
// of keys and values. Cheaper for few queries.
at::Tensor AttendToStates(const at::Tensor& queries, const at::Tensor& encoded,
                          const at::Tensor& key_weight, const at::Tensor& value_weight,
                          const std::vector<int64_t>& query_lengths,
                          const std::vector<int64_t>& key_lengths, int64_t heads, double dropout);
// Whether it is.
bool StatesAreCheaper(const std::vector<int64_t>& query_lengths,
                      const std::vector<int64_t>& key_lengths, int64_t heads, int64_t d_kv,
                      int64_t d_model);

}  // namespace tasuki
