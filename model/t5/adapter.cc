#include "model/t5/adapter.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

constexpr char kA[] = "lora_A.weight";
constexpr char kB[] = "lora_B.weight";
constexpr char kFile[] = "adapter_model.safetensors";
constexpr char kPrefix[] = "base_model.model.";  // of names in that file

// "….q.lora_A.weight" of "….q.weight".
std::string NameOf(const char* part, absl::string_view weight) {
  return absl::StrCat(absl::StripSuffix(weight, "weight"), part);
}

bool IsTarget(const std::string& weight, const v1::Lora& lora) {
  return std::any_of(lora.target_modules().begin(), lora.target_modules().end(),
                     [&](const std::string& module) {
                       return absl::EndsWith(weight, absl::StrCat(".", module, ".weight"));
                     });
}

}  // namespace

Adapter::Pair Adapter::Of(const std::string& weight) const {
  const auto a = weights.find(NameOf(kA, weight));
  if (a == weights.end()) return {};
  return {a->second.detach(), weights.at(NameOf(kB, weight)).detach() * scale};
}

std::vector<WeightShape> AdapterWeights(const T5Config& config, const v1::Lora& lora) {
  std::vector<WeightShape> weights;
  for (const WeightShape& weight : ExpectedWeights(config)) {
    if (!IsTarget(weight.name, lora)) continue;
    weights.push_back({NameOf(kA, weight.name), {lora.rank(), weight.shape[1]}});
    weights.push_back({NameOf(kB, weight.name), {weight.shape[0], lora.rank()}});
  }
  return weights;
}

Adapter InitialAdapter(const T5Config& config, const v1::Lora& lora, int64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  Adapter adapter{.weights = {}, .scale = lora.alpha() / lora.rank()};
  for (const WeightShape& weight : AdapterWeights(config, lora)) {
    at::Tensor& values = adapter.weights[weight.name] = at::zeros(weight.shape, at::kFloat);
    if (absl::EndsWith(weight.name, kB)) continue;
    // Kaiming-uniform with a = √5.
    const double bound = 1 / std::sqrt(static_cast<double>(weight.shape[1]));
    values.uniform_(-bound, bound, generator);
  }
  return adapter;
}

WeightMap Merge(const WeightMap& weights, const Adapter& adapter) {
  at::NoGradGuard no_grad;
  WeightMap merged;
  for (const auto& [name, weight] : weights) {
    const auto a = adapter.weights.find(NameOf(kA, name));
    merged[name] = a == adapter.weights.end()
                       ? weight.detach()
                       : at::addmm(weight, adapter.weights.at(NameOf(kB, name)), a->second,
                                   /*beta=*/1, /*alpha=*/adapter.scale);
  }
  return merged;
}

absl::Status WriteAdapter(const std::string& directory, const Adapter& adapter,
                          const v1::Lora& lora, const std::string& base) {
  nlohmann::ordered_json config;
  config["peft_type"] = "LORA";
  config["task_type"] = "SEQ_2_SEQ_LM";
  config["base_model_name_or_path"] = base;
  config["r"] = lora.rank();
  config["lora_alpha"] = lora.alpha();
  config["lora_dropout"] = lora.dropout();
  config["target_modules"] =
      std::vector<std::string>(lora.target_modules().begin(), lora.target_modules().end());
  config["bias"] = "none";
  config["fan_in_fan_out"] = false;
  config["inference_mode"] = true;

  WeightMap named;
  for (const auto& [name, weight] : adapter.weights) {
    named[absl::StrCat(kPrefix, name)] = weight;
  }
  absl::Status status = MakeDirectories(directory);
  if (status.ok()) {
    status = WriteFile(directory + "/adapter_config.json", config.dump(/*indent=*/2) + "\n");
  }
  if (status.ok()) {
    status = WriteTensors(absl::StrCat(directory, "/", kFile), named, {{"format", "pt"}});
  }
  return status;
}

absl::StatusOr<Adapter> ReadAdapter(const std::string& directory, const T5Config& config,
                                    const v1::Lora& lora) {
  std::vector<WeightShape> expected = AdapterWeights(config, lora);
  for (WeightShape& weight : expected) weight.name = absl::StrCat(kPrefix, weight.name);
  absl::StatusOr<WeightMap> named = ReadTensors(directory, {kFile}, expected);
  if (!named.ok()) return named.status();
  Adapter adapter{.weights = {}, .scale = lora.alpha() / lora.rank()};
  for (auto& [name, weight] : *named) {
    adapter.weights[std::string(absl::StripPrefix(name, kPrefix))] = std::move(weight);
  }
  return adapter;
}

}  // namespace tasuki
