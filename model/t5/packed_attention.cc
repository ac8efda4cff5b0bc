#include "model/t5/packed_attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <utility>

#include "model/t5/functions.h"
#include "model/t5/kernels.h"
#include "model/t5/team.h"

namespace tasuki {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows of which each head has `width` numbers; a view.
template <typename T>
struct Heads {
  T* data = nullptr;
  int64_t stride = 0, width = 0;

  T* At(int64_t row, int64_t head) const { return data + row * stride + head * width; }
  Matrix Rows(int64_t row, int64_t head) const { return {At(row, head), stride, 1}; }
  Matrix Turned(int64_t row, int64_t head) const { return {At(row, head), 1, stride}; }
};
using In = Heads<const float>;
using Out = Heads<float>;

// `part` of those that lie side by side in `rows`, each of `heads` heads.
In PartOf(const Tensor& rows, int64_t part, int64_t parts, int64_t heads) {
  const int64_t stride = rows.size(1);
  return {rows.const_data_ptr<float>() + part * stride / parts, stride, stride / parts / heads};
}
Out OutPartOf(const Tensor& rows, int64_t part, int64_t parts, int64_t heads) {
  const int64_t stride = rows.size(1);
  return {rows.mutable_data_ptr<float>() + part * stride / parts, stride, stride / parts / heads};
}

// The first row of each sequence, and the number of rows.
std::vector<int64_t> Begins(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> begins = {0};
  for (const int64_t length : lengths) begins.push_back(begins.back() + length);
  return begins;
}

// Who attends to whom, and what is dropped.
struct Plan : torch::CustomClassHolder {
  const std::vector<int64_t> queries, keys;  // begins
  const int64_t heads;
  const double dropout;
  const uint64_t key;            // of what is dropped
  std::vector<int64_t> dropped;  // of each sequence: where its weights begin among all

  Plan(const std::vector<int64_t>& query_lengths, const std::vector<int64_t>& key_lengths,
       int64_t heads, double dropout)
      : queries(Begins(query_lengths)),
        keys(Begins(key_lengths)),
        heads(heads),
        dropout(dropout),
        key(dropout > 0 ? NextRandom() : 0) {
    int64_t begin = 0;
    for (int64_t i = 0; i < sequences(); ++i) {
      dropped.push_back(begin);
      begin += heads * Blocks(i) * kDropoutBlock;
    }
  }
  int64_t sequences() const { return static_cast<int64_t>(queries.size()) - 1; }
  int64_t query_count(int64_t i) const { return queries[i + 1] - queries[i]; }
  int64_t key_count(int64_t i) const { return keys[i + 1] - keys[i]; }
  int64_t most_weights() const {
    int64_t most = 0;
    for (int64_t i = 0; i < sequences(); ++i) most = std::max(most, query_count(i) * key_count(i));
    return most;
  }
  // The weights of one head, or their gradients, with what the dropout does to them.
  void Drop(const float* weights, float* to, int64_t sequence, int64_t head) const {
    BestKernels().dropout(weights, nullptr, to, query_count(sequence) * key_count(sequence),
                          static_cast<float>(dropout), key,
                          dropped[sequence] + head * Blocks(sequence) * kDropoutBlock);
  }

 private:
  int64_t Blocks(int64_t i) const {
    return (query_count(i) * key_count(i) + kDropoutBlock - 1) / kDropoutBlock;
  }
};

// a b, by one thread.
void Multiply(const Matrix& a, const Matrix& b, int64_t rows, int64_t inner, int64_t columns,
              const Output& output) {
  BestKernels().product(Precision::kFp32, a, b, rows, inner, columns, 0, columns, output,
                        ProductScratch());
}

// dS of S, given dP and P = softmax(S): P (dP - sum of P dP), in the place of dP.
void SoftmaxBackward(const float* weights, float* gradient, int64_t count) {
  const float mean = BestKernels().dot(weights, gradient, count);
  for (int64_t i = 0; i < count; ++i) gradient[i] = weights[i] * (gradient[i] - mean);
}

void Normalised(float* scores, const float* bias, int64_t count) {
  const float sum = BestKernels().softmax(scores, bias, count);
  BestKernels().scale(scores, 1 / sum, count);
}

// ---- With keys and values ----------------------------------------------------------------------

struct Operands {
  In queries, keys, values;
  const float* biases = nullptr;  // [heads, 2 longest - 1], or none
  int64_t longest = 0;

  // Where the biases of a query for keys 0, 1, … begin.
  int64_t BiasesOf(int64_t head, int64_t query) const {
    return head * (2 * longest - 1) + longest - 1 - query;
  }
  // softmax(Q Kᵀ + biases) of a head of a sequence.
  void Weights(const Plan& plan, int64_t sequence, int64_t head, float* weights) const {
    const int64_t rows = plan.query_count(sequence), count = plan.key_count(sequence);
    Multiply(queries.Rows(plan.queries[sequence], head), keys.Turned(plan.keys[sequence], head),
             rows, queries.width, count, {weights, count});
    for (int64_t i = 0; i < rows; ++i) {
      Normalised(weights + i * count, biases == nullptr ? nullptr : biases + BiasesOf(head, i),
                 count);
    }
  }
};

// Each head's work is one thread's, so that sums have one order.
void ForHeads(const Plan& plan, int64_t floats,
              const std::function<void(int64_t head, float* floats)>& work) {
  const int threads = static_cast<int>(std::min<int64_t>(at::get_num_threads(), plan.heads));
  std::vector<Aligned<float>> memory;
  for (int i = 0; i < threads; ++i) memory.push_back(MakeAligned<float>(floats));
  RunTeam(threads, [&](const Member& member) {
    const auto [first, last] = member.Share(plan.heads);
    for (int64_t head = first; head < last; ++head) work(head, memory[member.index()].get());
  });
}

void Attend(const Plan& plan, const Operands& from, const Out& result) {
  ForHeads(plan, plan.most_weights(), [&](int64_t head, float* weights) {
    for (int64_t i = 0; i < plan.sequences(); ++i) {
      const int64_t rows = plan.query_count(i), count = plan.key_count(i);
      from.Weights(plan, i, head, weights);
      if (plan.dropout > 0) plan.Drop(weights, weights, i, head);
      Multiply({weights, count, 1}, from.values.Rows(plan.keys[i], head), rows, count,
               from.values.width, {result.At(plan.queries[i], head), result.stride});
    }
  });
}

void AttendBackward(const Plan& plan, const Operands& from, const In& gradient, const Out& queries,
                    const Out& keys, const Out& values, float* biases) {
  const int64_t most = plan.most_weights(), width = from.queries.width;
  ForHeads(plan, 3 * most, [&](int64_t head, float* weights) {
    float* const dropped = weights + most;
    float* const scores = dropped + most;  // their gradient
    for (int64_t i = 0; i < plan.sequences(); ++i) {
      const int64_t rows = plan.query_count(i), count = plan.key_count(i);
      const int64_t query = plan.queries[i], key = plan.keys[i];
      from.Weights(plan, i, head, weights);
      const float* used = weights;
      if (plan.dropout > 0) {
        plan.Drop(weights, dropped, i, head);
        used = dropped;
      }
      Multiply({used, 1, count}, gradient.Rows(query, head), count, rows, width,
               {values.At(key, head), values.stride});
      Multiply(gradient.Rows(query, head), from.values.Turned(key, head), rows, width, count,
               {scores, count});
      if (plan.dropout > 0) plan.Drop(scores, scores, i, head);
      for (int64_t row = 0; row < rows; ++row) {
        SoftmaxBackward(weights + row * count, scores + row * count, count);
        if (biases == nullptr) continue;
        float* sums = biases + from.BiasesOf(head, row);
        for (int64_t k = 0; k < count; ++k) sums[k] += scores[row * count + k];
      }
      Multiply({scores, count, 1}, from.keys.Rows(key, head), rows, count, width,
               {queries.At(query, head), queries.stride});
      Multiply({scores, 1, count}, from.queries.Rows(query, head), count, rows, width,
               {keys.At(key, head), keys.stride});
    }
  });
}

Operands SelfOperands(const Plan& plan, const Tensor& rows, const Tensor& biases) {
  return {PartOf(rows, 0, 3, plan.heads), PartOf(rows, 1, 3, plan.heads),
          PartOf(rows, 2, 3, plan.heads), biases.const_data_ptr<float>(), (biases.size(1) + 1) / 2};
}

using PlanPointer = c10::intrusive_ptr<Plan>;

void Save(AutogradContext* context, const PlanPointer& plan) {
  context->saved_data["plan"] = at::IValue::make_capsule(plan);
}
PlanPointer SavedPlan(AutogradContext* context) {
  return c10::static_intrusive_pointer_cast<Plan>(context->saved_data["plan"].toCapsule());
}

struct SelfFunction : torch::autograd::Function<SelfFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& rows, const Tensor& biases,
                        const PlanPointer& plan) {
    context->save_for_backward({rows, biases});
    Save(context, plan);
    Tensor result = at::empty({rows.size(0), rows.size(1) / 3}, rows.options());
    Attend(*plan, SelfOperands(*plan, rows, biases), OutPartOf(result, 0, 1, plan->heads));
    return result;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PlanPointer plan = SavedPlan(context);
    const variable_list saved = context->get_saved_variables();
    const Tensor gradient = gradients[0].contiguous();
    Tensor of_rows = at::empty_like(saved[0]), of_biases = at::zeros_like(saved[1]);
    const auto part = [&](int64_t i) { return OutPartOf(of_rows, i, 3, plan->heads); };
    AttendBackward(*plan, SelfOperands(*plan, saved[0], saved[1]),
                   PartOf(gradient, 0, 1, plan->heads), part(0), part(1), part(2),
                   of_biases.mutable_data_ptr<float>());
    return {of_rows, of_biases, Tensor()};
  }
};

Operands OtherOperands(const Plan& plan, const Tensor& queries, const Tensor& keys_values) {
  return {PartOf(queries, 0, 1, plan.heads), PartOf(keys_values, 0, 2, plan.heads),
          PartOf(keys_values, 1, 2, plan.heads)};
}

struct OthersFunction : torch::autograd::Function<OthersFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& queries, const Tensor& keys_values,
                        const PlanPointer& plan) {
    context->save_for_backward({queries, keys_values});
    Save(context, plan);
    Tensor result = at::empty_like(queries);
    Attend(*plan, OtherOperands(*plan, queries, keys_values), OutPartOf(result, 0, 1, plan->heads));
    return result;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PlanPointer plan = SavedPlan(context);
    const variable_list saved = context->get_saved_variables();
    const Tensor gradient = gradients[0].contiguous();
    Tensor of_queries = at::empty_like(saved[0]), of_keys_values = at::empty_like(saved[1]);
    AttendBackward(*plan, OtherOperands(*plan, saved[0], saved[1]),
                   PartOf(gradient, 0, 1, plan->heads), OutPartOf(of_queries, 0, 1, plan->heads),
                   OutPartOf(of_keys_values, 0, 2, plan->heads),
                   OutPartOf(of_keys_values, 1, 2, plan->heads), /*biases=*/nullptr);
    return {of_queries, of_keys_values, Tensor()};
  }
};

// ---- With the states themselves ----------------------------------------------------------------

// What one team works on, in turns by head (of all sequences) and by sequence (with all its heads).
// The rows of a sequence with all their heads are a matrix [queries * heads, d_model].
class States {
 public:
  // `inner`: heads * d_kv.
  States(const Plan& plan, const Tensor& encoded, int64_t inner)
      : plan_(plan),
        encoded_(encoded.const_data_ptr<float>()),
        d_(encoded.size(1)),
        inner_(inner),
        d_kv_(inner_ / plan.heads),
        rows_(plan.queries.back()) {
    int64_t weights = 0;
    for (int64_t i = 0; i < plan.sequences(); ++i) {
      weights_begin_.push_back(weights);
      weights += plan.query_count(i) * plan.heads * plan.key_count(i);
    }
    weights_begin_.push_back(weights);
  }

  int64_t weights() const { return weights_begin_.back(); }
  int64_t wide() const { return rows_ * plan_.heads * d_; }

  // y_h = x_h W_h for each head: from [rows, inner] to [rows, heads, d_model].
  void Widen(const Member& member, const float* x, const float* weight, float* y) const {
    ForMyHeads(member, [&](int64_t h) {
      Multiply({x + h * d_kv_, inner_, 1}, {weight + h * d_kv_ * d_, d_, 1}, rows_, d_kv_, d_,
               {y + h * d_, plan_.heads * d_});
    });
  }
  // y_h = x_h W_hᵀ: back.
  void Narrow(const Member& member, const float* x, const float* weight, float* y) const {
    ForMyHeads(member, [&](int64_t h) {
      Multiply({x + h * d_, plan_.heads * d_, 1}, {weight + h * d_kv_ * d_, 1, d_}, rows_, d_,
               d_kv_, {y + h * d_kv_, inner_});
    });
  }
  // The gradient of W_h in either: x_hᵀ y_h for x [rows, inner] and y [rows, heads, d_model].
  void OfWeight(const Member& member, const float* x, const float* y, float* gradient) const {
    ForMyHeads(member, [&](int64_t h) {
      Multiply({x + h * d_kv_, 1, inner_}, {y + h * d_, plan_.heads * d_, 1}, d_kv_, rows_, d_,
               {gradient + h * d_kv_ * d_, d_});
    });
  }

  // Of sequence i: softmax(looks · states).
  void Weigh(int64_t i, const float* looks, float* weights) const {
    const int64_t count = plan_.key_count(i);
    float* mine = weights + weights_begin_[i];
    Multiply(Wide(looks, i), {StatesOf(i), 1, d_}, RowsOf(i), d_, count, {mine, count});
    for (int64_t row = 0; row < RowsOf(i); ++row) Normalised(mine + row * count, nullptr, count);
  }
  // The weights as they are used: `dropped` if anything is dropped, else themselves.
  const float* Used(int64_t i, const float* weights, float* dropped) const {
    const float* mine = weights + weights_begin_[i];
    if (plan_.dropout == 0) return mine;
    DropWeights(i, mine, dropped);
    return dropped;
  }
  void DropWeights(int64_t i, const float* from, float* to) const {
    const int64_t size = plan_.query_count(i) * plan_.key_count(i);
    for (int64_t h = 0; h < plan_.heads; ++h) plan_.Drop(from + h * size, to + h * size, i, h);
  }
  // weights · states.
  void Mix(int64_t i, const float* used, float* mixed) const {
    const int64_t count = plan_.key_count(i);
    Multiply({used, count, 1}, {StatesOf(i), d_, 1}, RowsOf(i), count, d_, {WideAt(mixed, i), d_});
  }
  // Given the gradient of `mixed`, those of the looks and of the states.
  void MixBackward(int64_t i, const float* looks, const float* weights, const float* of_mixed,
                   float* of_looks, float* of_states, float* dropped, float* scores) const {
    const int64_t count = plan_.key_count(i), rows = RowsOf(i);
    const Output states = {of_states + plan_.keys[i] * d_, d_};
    const Matrix of_answer = Wide(of_mixed, i);
    Multiply({Used(i, weights, dropped), 1, count}, of_answer, count, rows, d_, states);
    Multiply(of_answer, {StatesOf(i), 1, d_}, rows, d_, count, {scores, count});
    if (plan_.dropout > 0) DropWeights(i, scores, scores);
    for (int64_t row = 0; row < rows; ++row) {
      SoftmaxBackward(weights + weights_begin_[i] + row * count, scores + row * count, count);
    }
    Multiply({scores, count, 1}, {StatesOf(i), d_, 1}, rows, count, d_, {WideAt(of_looks, i), d_});
    Multiply({scores, 1, count}, Wide(looks, i), count, rows, d_,
             {states.data, d_, OutputMode::kAdd});
  }

 private:
  template <typename Work>
  void ForMyHeads(const Member& member, const Work& work) const {
    const auto [first, last] = member.Share(plan_.heads);
    for (int64_t head = first; head < last; ++head) work(head);
  }
  int64_t RowsOf(int64_t i) const { return plan_.query_count(i) * plan_.heads; }
  const float* StatesOf(int64_t i) const { return encoded_ + plan_.keys[i] * d_; }
  float* WideAt(float* wide, int64_t i) const { return wide + plan_.queries[i] * plan_.heads * d_; }
  Matrix Wide(const float* wide, int64_t i) const {
    return {wide + plan_.queries[i] * plan_.heads * d_, d_, 1};
  }

  const Plan& plan_;
  const float* const encoded_;
  const int64_t d_, inner_, d_kv_, rows_;
  std::vector<int64_t> weights_begin_;  // of each sequence
};

// `work` on each of a team, with so many floats for each.
void ForTeam(int64_t floats, const std::function<void(const Member&, float* floats)>& work) {
  const int threads = at::get_num_threads();
  std::vector<Aligned<float>> memory;
  for (int i = 0; i < threads; ++i) memory.push_back(MakeAligned<float>(floats));
  // Where members meet nothing may be thrown.
  RunTeam(threads, [](const Member&) { ProductScratch(); });
  RunTeam(threads, [&](const Member& member) { work(member, memory[member.index()].get()); });
}

struct StatesFunction : torch::autograd::Function<StatesFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& queries, const Tensor& encoded,
                        const Tensor& key_weight, const Tensor& value_weight,
                        const PlanPointer& plan) {
    const States states(*plan, encoded, queries.size(1));
    const auto options = queries.options().requires_grad(false);
    const Tensor looks = at::empty({states.wide()}, options), mixed = at::empty_like(looks);
    const Tensor weights = at::empty({states.weights()}, options);
    Tensor result = at::empty(queries.sizes(), options);
    std::atomic<int64_t> next = 0;
    ForTeam(plan->heads * plan->most_weights(), [&](const Member& member, float* dropped) {
      float* const wide = looks.mutable_data_ptr<float>();
      float* const answers = mixed.mutable_data_ptr<float>();
      float* const shares = weights.mutable_data_ptr<float>();
      states.Widen(member, queries.const_data_ptr<float>(), key_weight.const_data_ptr<float>(),
                   wide);
      member.Meet();
      for (int64_t i = next++; i < plan->sequences(); i = next++) {
        states.Weigh(i, wide, shares);
        states.Mix(i, states.Used(i, shares, dropped), answers);
      }
      member.Meet();
      states.Narrow(member, answers, value_weight.const_data_ptr<float>(),
                    result.mutable_data_ptr<float>());
    });
    context->save_for_backward({queries, encoded, key_weight, value_weight, looks, mixed, weights});
    Save(context, plan);
    return result;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const PlanPointer plan = SavedPlan(context);
    const variable_list saved = context->get_saved_variables();
    const States states(*plan, saved[1], saved[0].size(1));
    const Tensor gradient = gradients[0].contiguous();
    const Tensor of_mixed = at::empty_like(saved[4]), of_looks = at::empty_like(saved[4]);
    Tensor of_queries = at::empty_like(saved[0]), of_encoded = at::empty_like(saved[1]);
    Tensor of_keys, of_values;
    if (context->needs_input_grad(2)) of_keys = at::empty_like(saved[2]);
    if (context->needs_input_grad(3)) of_values = at::empty_like(saved[3]);
    const int64_t most = plan->heads * plan->most_weights();
    std::atomic<int64_t> next = 0;
    ForTeam(2 * most, [&](const Member& member, float* dropped) {
      const float* const of_answer = gradient.const_data_ptr<float>();
      const float* const looks = saved[4].const_data_ptr<float>();
      float* const looks_gradient = of_looks.mutable_data_ptr<float>();
      states.Widen(member, of_answer, saved[3].const_data_ptr<float>(),
                   of_mixed.mutable_data_ptr<float>());
      if (of_values.defined()) {
        states.OfWeight(member, of_answer, saved[5].const_data_ptr<float>(),
                        of_values.mutable_data_ptr<float>());
      }
      member.Meet();
      for (int64_t i = next++; i < plan->sequences(); i = next++) {
        states.MixBackward(i, looks, saved[6].const_data_ptr<float>(),
                           of_mixed.const_data_ptr<float>(), looks_gradient,
                           of_encoded.mutable_data_ptr<float>(), dropped, dropped + most);
      }
      member.Meet();
      states.Narrow(member, looks_gradient, saved[2].const_data_ptr<float>(),
                    of_queries.mutable_data_ptr<float>());
      if (of_keys.defined()) {
        states.OfWeight(member, saved[0].const_data_ptr<float>(), looks_gradient,
                        of_keys.mutable_data_ptr<float>());
      }
    });
    return {of_queries, of_encoded, of_keys, of_values, Tensor()};
  }
};

}  // namespace

Tensor AttendToSelf(const Tensor& rows, const std::vector<int64_t>& lengths, const Tensor& biases,
                    double dropout) {
  return SelfFunction::apply(rows.contiguous(), biases.contiguous(),
                             c10::make_intrusive<Plan>(lengths, lengths, biases.size(0), dropout));
}

Tensor AttendToOthers(const Tensor& queries, const Tensor& keys_values,
                      const std::vector<int64_t>& query_lengths,
                      const std::vector<int64_t>& key_lengths, int64_t heads, double dropout) {
  return OthersFunction::apply(
      queries.contiguous(), keys_values.contiguous(),
      c10::make_intrusive<Plan>(query_lengths, key_lengths, heads, dropout));
}

Tensor AttendToStates(const Tensor& queries, const Tensor& encoded, const Tensor& key_weight,
                      const Tensor& value_weight, const std::vector<int64_t>& query_lengths,
                      const std::vector<int64_t>& key_lengths, int64_t heads, double dropout) {
  return StatesFunction::apply(
      queries.contiguous(), encoded.contiguous(), key_weight, value_weight,
      c10::make_intrusive<Plan>(query_lengths, key_lengths, heads, dropout));
}

bool StatesAreCheaper(const std::vector<int64_t>& query_lengths,
                      const std::vector<int64_t>& key_lengths, int64_t heads, int64_t d_kv,
                      int64_t d_model) {
  int64_t states = 0, keys_values = 0;  // multiplications, halved
  for (size_t i = 0; i < query_lengths.size(); ++i) {
    states += query_lengths[i] * heads * d_model * (d_kv + key_lengths[i]);
    keys_values += key_lengths[i] * heads * d_kv * (d_model + query_lengths[i]);
  }
  return states < keys_values;
}

}  // namespace tasuki
