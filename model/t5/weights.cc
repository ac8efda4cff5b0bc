#include "model/t5/weights.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/files/safetensors.h"
#include "model/t5/model_json.h"

namespace tasuki {
namespace {

constexpr char kWhole[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = size_t{1} << 26;
constexpr size_t kShownFaults = 10;

void AddAttention(const std::string& prefix, const T5Config& config, std::vector<WeightShape>& to) {
  const int64_t inner = config.num_heads * config.d_kv;
  to.push_back({prefix + "q.weight", {inner, config.d_model}});
  to.push_back({prefix + "k.weight", {inner, config.d_model}});
  to.push_back({prefix + "v.weight", {inner, config.d_model}});
  to.push_back({prefix + "o.weight", {config.d_model, inner}});
}

void AddStack(const std::string& stack, bool decoder, const T5Config& config,
              std::vector<WeightShape>& to) {
  const int64_t layers = decoder ? config.num_decoder_layers : config.num_layers;
  const std::vector<int64_t> norm = {config.d_model};
  for (int64_t i = 0; i < layers; ++i) {
    const std::string block = absl::StrCat(stack, ".block.", i, ".layer.");
    AddAttention(block + "0.SelfAttention.", config, to);
    if (i == 0) {
      to.push_back({block + "0.SelfAttention.relative_attention_bias.weight",
                    {config.relative_attention_num_buckets, config.num_heads}});
    }
    to.push_back({block + "0.layer_norm.weight", norm});
    if (decoder) {
      AddAttention(block + "1.EncDecAttention.", config, to);
      to.push_back({block + "1.layer_norm.weight", norm});
    }
    const std::string feed_forward = block + (decoder ? "2." : "1.");
    const std::vector<int64_t> in = {config.d_ff, config.d_model};
    if (config.gated) {
      to.push_back({feed_forward + "DenseReluDense.wi_0.weight", in});
      to.push_back({feed_forward + "DenseReluDense.wi_1.weight", in});
    } else {
      to.push_back({feed_forward + "DenseReluDense.wi.weight", in});
    }
    to.push_back({feed_forward + "DenseReluDense.wo.weight", {config.d_model, config.d_ff}});
    to.push_back({feed_forward + "layer_norm.weight", norm});
  }
  to.push_back({stack + ".final_layer_norm.weight", norm});
}

// Weights that files hold beside the expected ones: copies of the embedding, which transformers
// ties again on loading, and a bias of cross-attention that T5's first checkpoints have and nobody
// uses.
bool IsIgnored(const std::string& name, const T5Config& config) {
  return name == "encoder.embed_tokens.weight" || name == "decoder.embed_tokens.weight" ||
         (name == "lm_head.weight" && config.tie_word_embeddings) ||
         name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
}

// The standard deviation of a new weight; 0 means that it is the constant initializer_factor.
double InitialDeviation(const std::string& name, const T5Config& config) {
  const double d_model = static_cast<double>(config.d_model);
  const double inner = static_cast<double>(config.num_heads * config.d_kv);
  if (absl::EndsWith(name, "layer_norm.weight")) return 0;
  if (name == "shared.weight" || name == "lm_head.weight") return 1;
  // The queries carry the scale that attention itself leaves out.
  if (absl::EndsWith(name, ".q.weight")) return 1 / std::sqrt(d_model * config.d_kv);
  if (absl::EndsWith(name, ".o.weight")) return 1 / std::sqrt(inner);
  if (absl::EndsWith(name, ".wo.weight")) return 1 / std::sqrt(static_cast<double>(config.d_ff));
  return 1 / std::sqrt(d_model);
}

// The files that hold the weights, by name.
absl::StatusOr<std::set<std::string>> WeightFiles(const std::string& directory) {
  const absl::StatusOr<std::vector<std::string>> names = ListDirectory(directory);
  if (!names.ok()) return names.status();
  const auto has = [&](const char* name) {
    return std::find(names->begin(), names->end(), name) != names->end();
  };
  if (has(kWhole)) return std::set<std::string>{kWhole};
  if (!has(kIndex)) return ModelInvalid(kWhole, "the file is missing");

  const absl::StatusOr<nlohmann::json> index =
      ReadModelJson(absl::StrCat(directory, "/", kIndex), kMaxIndexBytes);
  if (!index.ok()) return index.status();
  const auto weight_map = index->find("weight_map");
  if (weight_map == index->end() || !weight_map->is_object()) {
    return ModelInvalid(kIndex, "weight_map is missing or not an object");
  }
  std::set<std::string> files;
  for (const auto& [weight, file] : weight_map->items()) {
    if (!file.is_string() || !IsModelFileName(file.get<std::string>())) {
      return ModelInvalid(kIndex,
                          absl::StrCat("the file of ", Quote(weight), " is not a shard's name"));
    }
    files.insert(file.get<std::string>());
  }
  return files;
}

// The entry as fp32, copied: what lies in a file need not be aligned.
at::Tensor Load(const TensorEntry& entry, at::ScalarType dtype) {
  at::Tensor raw = at::empty(entry.shape, dtype);
  std::memcpy(raw.data_ptr(), entry.data, entry.size_bytes);
  return raw.to(at::kFloat);
}

// Loads an entry into `weights`, or answers why not.
std::string LoadExpected(const std::string& name, const std::vector<int64_t>& shape,
                         const TensorEntry& entry, WeightMap& weights) {
  static const std::map<std::string, at::ScalarType> kDtypes = {
      {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}};
  const auto dtype = kDtypes.find(entry.dtype);
  if (dtype == kDtypes.end()) {
    return absl::StrCat(name, " is of type ", entry.dtype, ", not F32, F16 or BF16");
  }
  if (entry.shape != shape) {
    return absl::StrCat(name, " has shape [", absl::StrJoin(entry.shape, ", "), "], not [",
                        absl::StrJoin(shape, ", "), "]");
  }
  at::Tensor weight = Load(entry, dtype->second);
  if (!at::isfinite(weight).all().item<bool>()) {
    return absl::StrCat(name, " has a value that is not finite");
  }
  weights[name] = std::move(weight);
  return "";
}

}  // namespace

std::vector<WeightShape> ExpectedWeights(const T5Config& config) {
  const std::vector<int64_t> embedding = {config.vocab_size, config.d_model};
  std::vector<WeightShape> weights = {{"shared.weight", embedding}};
  AddStack("encoder", /*decoder=*/false, config, weights);
  AddStack("decoder", /*decoder=*/true, config, weights);
  if (!config.tie_word_embeddings) weights.push_back({"lm_head.weight", embedding});
  return weights;
}

WeightMap InitialWeights(const T5Config& config, int64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  WeightMap weights;
  for (const WeightShape& expected : ExpectedWeights(config)) {
    const double deviation = InitialDeviation(expected.name, config) * config.initializer_factor;
    at::Tensor weight = at::full(expected.shape, config.initializer_factor, at::kFloat);
    if (deviation > 0) weight.normal_(0, deviation, generator);
    weights[expected.name] = std::move(weight);
  }
  return weights;
}

absl::StatusOr<WeightMap> ReadTensors(const std::string& directory,
                                      const std::set<std::string>& files,
                                      const std::vector<WeightShape>& expected,
                                      const std::function<bool(const std::string& name)>& ignored) {
  std::map<std::string, std::vector<int64_t>> missing;
  for (const WeightShape& weight : expected) missing[weight.name] = weight.shape;

  WeightMap weights;
  std::vector<std::string> faults;
  for (const std::string& name : files) {
    const auto file = SafetensorsFile::Open(absl::StrCat(directory, "/", name));
    if (absl::IsNotFound(file.status())) return ModelInvalid(name, "the file is missing");
    if (!file.ok()) return file.status();
    for (const auto& [weight, entry] : (*file)->tensors()) {
      const auto wanted = missing.find(weight);
      if (wanted != missing.end()) {
        const std::string fault = LoadExpected(weight, wanted->second, entry, weights);
        if (!fault.empty()) faults.push_back(fault);
        missing.erase(wanted);
      } else if (ignored == nullptr || !ignored(weight)) {
        faults.push_back(
            absl::StrCat(Quote(weight), " is not a weight of this T5, or is there twice"));
      }
    }
  }
  for (const auto& [weight, shape] : missing) faults.push_back(absl::StrCat(weight, " is missing"));
  if (faults.empty()) return weights;

  const size_t count = faults.size();
  if (count > kShownFaults) faults.resize(kShownFaults);
  return ModelInvalid(
      files.size() == 1 ? *files.begin() : kIndex,
      absl::StrCat(
          absl::StrJoin(faults, "; "),
          count > kShownFaults ? absl::StrCat("; and ", count - kShownFaults, " more") : ""));
}

absl::StatusOr<WeightMap> ReadWeights(const std::string& directory, const T5Config& config) {
  const absl::StatusOr<std::set<std::string>> files = WeightFiles(directory);
  if (!files.ok()) return files.status();
  return ReadTensors(directory, *files, ExpectedWeights(config),
                     [&](const std::string& name) { return IsIgnored(name, config); });
}

absl::Status WriteTensors(const std::string& path, const WeightMap& tensors,
                          const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> kept;  // keeps the bytes alive
  std::map<std::string, TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    kept.push_back(tensor.detach().to(at::kCPU, at::kFloat).contiguous());
    const at::Tensor& data = kept.back();
    entries[name] = {"F32", data.sizes().vec(), static_cast<const uint8_t*>(data.const_data_ptr()),
                     data.nbytes()};
  }
  return WriteSafetensors(path, entries, metadata);
}

absl::Status WriteWeights(const std::string& directory, const WeightMap& weights) {
  return WriteTensors(absl::StrCat(directory, "/", kWhole), weights, {{"format", "pt"}});
}

WeightMap OnDevice(WeightMap weights, const std::string& device) {
  for (auto& [name, weight] : weights) weight = weight.to(at::Device(device));
  return weights;
}

}  // namespace tasuki
