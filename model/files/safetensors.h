// The safetensors format: 8 bytes of little-endian header length, a JSON header, then the tensors.
//
// Only the header is interpreted here; the bytes are handed out as they lie. Refused with
// INVALID_ARGUMENT, MODEL_INVALID, naming the cause: a header of more than 100,000,000 bytes or
// beyond the file, anything but an object, duplicate keys, unknown dtypes, shapes whose product
// overflows or does not fit the offsets, offsets that overlap, leave holes or do not end at the end
// of the file. Tensors of no bytes are allowed. Source: the format's own description (safetensors
// README, "Format").
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tasuki {

struct TensorEntry {
  std::string dtype;              // "F32", "BF16", "F16", "I64", "U8", …
  std::vector<int64_t> shape;     // [] for a scalar
  const uint8_t* data = nullptr;  // in the mapped file
  size_t size_bytes = 0;
};

// A file mapped read-only; entries point into the mapping and live as long as this object.
// Immutable after Open; thread-safe.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;
  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::map<std::string, TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Writes tensors in the order of their names, data aligned to 8 bytes from the header's end on, and
// syncs. Errors as in durable.h.
absl::Status WriteSafetensors(const std::string& path,
                              const std::map<std::string, TensorEntry>& tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace tasuki
