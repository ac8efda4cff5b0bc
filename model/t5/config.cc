#include "model/t5/config.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/files/durable.h"
#include "model/t5/model_json.h"

namespace tasuki {
namespace {

using nlohmann::json;

constexpr char kFile[] = "config.json";
constexpr size_t kMaxBytes = size_t{1} << 20;

// Reads fields of config.json and collects what is wrong with them.
class Fields {
 public:
  explicit Fields(const json& document) : document_(document) {}

  // A whole number; `fallback` if the field is not there, where that is allowed.
  int64_t Whole(const char* name, int64_t least, int64_t most,
                std::optional<int64_t> fallback = std::nullopt) {
    const json* value = Find(name);
    if (value == nullptr && fallback.has_value()) return *fallback;
    if (value == nullptr) return Refuse(name, "is missing", least);
    if (!value->is_number_integer() || *value < least || *value > most) {
      return Refuse(name, absl::StrCat("is not a whole number from ", least, " to ", most), least);
    }
    return value->get<int64_t>();
  }

  double Number(const char* name, double least, double most, double fallback) {
    const json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !(*value >= least && *value <= most)) {
      Refuse(name, absl::StrCat("is not a number from ", least, " to ", most), 0);
      return fallback;
    }
    return value->get<double>();
  }

  bool Flag(const char* name, bool fallback) {
    const json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return Refuse(name, "is not true or false", 0) != 0;
    return value->get<bool>();
  }

  // One of the texts in `allowed`.
  std::string Text(const char* name, const std::vector<std::string>& allowed,
                   const std::string& fallback) {
    const json* value = Find(name);
    if (value == nullptr && !fallback.empty()) return fallback;
    if (value != nullptr && value->is_string()) {
      for (const std::string& text : allowed) {
        if (*value == text) return text;
      }
    }
    Refuse(name, absl::StrCat("is not one of ", absl::StrJoin(allowed, ", ")), 0);
    return allowed.front();
  }

  int64_t Refuse(const char* name, const std::string& cause, int64_t instead) {
    faults_.push_back(absl::StrCat(name, " ", cause));
    return instead;
  }
  const std::vector<std::string>& faults() const { return faults_; }

 private:
  // Null counts as absent, as in transformers.
  const json* Find(const char* name) const {
    const auto found = document_.find(name);
    return found == document_.end() || found->is_null() ? nullptr : &*found;
  }

  const json& document_;
  std::vector<std::string> faults_;
};

}  // namespace

absl::StatusOr<T5Config> T5Config::Read(const std::string& path) {
  const absl::StatusOr<json> document = ReadModelJson(path, kMaxBytes);
  if (!document.ok()) return document.status();

  Fields fields(*document);
  const bool mt5 = fields.Text("model_type", {"t5", "mt5"}, "") == "mt5";
  T5Config config;
  config.vocab_size = fields.Whole("vocab_size", 4, 1 << 24);
  config.d_model = fields.Whole("d_model", 1, 1 << 16);
  config.d_kv = fields.Whole("d_kv", 1, 1 << 12);
  config.d_ff = fields.Whole("d_ff", 1, 1 << 20);
  config.num_heads = fields.Whole("num_heads", 1, 1 << 12);
  config.num_layers = fields.Whole("num_layers", 1, 1000);
  config.num_decoder_layers = fields.Whole("num_decoder_layers", 1, 1000, config.num_layers);
  // Half of the buckets are for either direction, half of those for exact distances.
  config.relative_attention_num_buckets =
      fields.Whole("relative_attention_num_buckets", 4, 1 << 16, 32);
  config.relative_attention_max_distance =
      fields.Whole("relative_attention_max_distance", config.relative_attention_num_buckets / 2 + 1,
                   1 << 24, 128);
  config.dropout_rate = fields.Number("dropout_rate", 0, .99, .1);
  config.layer_norm_epsilon = fields.Number("layer_norm_epsilon", 1e-12, .1, 1e-6);
  config.initializer_factor = fields.Number("initializer_factor", 0, 1e3, 1);
  config.gated = fields.Text("feed_forward_proj", {"relu", "gated-gelu"},
                             mt5 ? "gated-gelu" : "relu") == "gated-gelu";
  // Derived from feed_forward_proj when the file was written; edited apart it would win there.
  const std::string activation = config.gated ? "gelu_new" : "relu";
  fields.Text("dense_act_fn", {activation}, activation);
  if (fields.Flag("is_gated_act", config.gated) != config.gated) {
    fields.Refuse("is_gated_act", "contradicts feed_forward_proj", 0);
  }
  config.tie_word_embeddings = fields.Flag("tie_word_embeddings", !mt5);
  const int64_t last = config.vocab_size - 1;
  config.pad_token_id = fields.Whole("pad_token_id", 0, last, 0);
  config.eos_token_id = fields.Whole("eos_token_id", 0, last, 1);
  config.decoder_start_token_id =
      fields.Whole("decoder_start_token_id", 0, last, config.pad_token_id);
  if (!fields.faults().empty()) return ModelInvalid(kFile, absl::StrJoin(fields.faults(), "; "));
  return config;
}

absl::Status T5Config::Write(const std::string& path) const {
  const json document = {
      {"architectures", {"T5ForConditionalGeneration"}},
      {"model_type", "t5"},
      {"is_encoder_decoder", true},
      {"vocab_size", vocab_size},
      {"d_model", d_model},
      {"d_kv", d_kv},
      {"d_ff", d_ff},
      {"num_layers", num_layers},
      {"num_decoder_layers", num_decoder_layers},
      {"num_heads", num_heads},
      {"relative_attention_num_buckets", relative_attention_num_buckets},
      {"relative_attention_max_distance", relative_attention_max_distance},
      {"dropout_rate", dropout_rate},
      {"layer_norm_epsilon", layer_norm_epsilon},
      {"initializer_factor", initializer_factor},
      {"feed_forward_proj", gated ? "gated-gelu" : "relu"},
      {"dense_act_fn", gated ? "gelu_new" : "relu"},
      {"is_gated_act", gated},
      {"tie_word_embeddings", tie_word_embeddings},
      {"pad_token_id", pad_token_id},
      {"eos_token_id", eos_token_id},
      {"decoder_start_token_id", decoder_start_token_id},
      {"torch_dtype", "float32"},
  };
  return WriteFile(path, document.dump(2) + "\n");
}

T5Config T5Config::OfSize(const v1::ModelSize& size, int64_t vocab_size) {
  T5Config config;
  config.vocab_size = vocab_size;
  config.d_model = size.d_model();
  config.d_kv = size.d_kv();
  config.d_ff = size.d_ff();
  config.num_heads = size.num_heads();
  config.num_layers = size.num_layers();
  config.num_decoder_layers = size.num_decoder_layers();
  return config;
}

}  // namespace tasuki
