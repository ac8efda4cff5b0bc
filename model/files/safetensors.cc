#include "model/files/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr char kMetadataKey[] = "__metadata__";

// 0 for a dtype that is not known.
int64_t BytesOf(absl::string_view dtype) {
  static const std::map<absl::string_view, int64_t> kBytes = {
      {"F64", 8},     {"F32", 4},     {"F16", 2},  {"BF16", 2}, {"I64", 8}, {"U64", 8},
      {"I32", 4},     {"U32", 4},     {"I16", 2},  {"U16", 2},  {"I8", 1},  {"U8", 1},
      {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"BOOL", 1}, {"C64", 8}};
  const auto found = kBytes.find(dtype);
  return found == kBytes.end() ? 0 : found->second;
}

// Names come from strangers: shown as printable ASCII, cut.
std::string Shown(absl::string_view name) { return Quote(absl::CHexEscape(name.substr(0, 80))); }

struct HeaderEntry {
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;  // begin, end
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Receives nlohmann's parsing events and lets nothing pass but
//   {"__metadata__": {text: text}, name: {"dtype": text, "shape": [n…], "data_offsets": [n, n]}}
// with no key twice (the library's own document would keep the last). What is nested deeper ends
// the parsing at once.
class HeaderReader : public nlohmann::json::json_sax_t {
 public:
  std::map<std::string, HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
  std::string fault;  // why an event was refused

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kValueOfTop:
        place_ = in_metadata_ ? Place::kMetadata : Place::kEntry;
        return true;
      default:
        return Refuse("an object where none belongs");
    }
  }

  bool key(string_t& key) override {
    key_ = key;
    if (place_ == Place::kTop) {
      place_ = Place::kValueOfTop;
      in_metadata_ = key == kMetadataKey;
      if (in_metadata_ && std::exchange(has_metadata_, true)) return Refuse("the key twice");
      if (!in_metadata_) {
        const auto [entry, added] = entries.try_emplace(key);
        entry_ = &entry->second;
        name_ = key;
        if (!added) return Refuse("the key twice");
      }
      return true;
    }
    if (place_ == Place::kMetadata) {
      return metadata.try_emplace(key).second || Refuse("the key twice");
    }
    bool* seen = key == "dtype"          ? &entry_->has_dtype
                 : key == "shape"        ? &entry_->has_shape
                 : key == "data_offsets" ? &entry_->has_offsets
                                         : nullptr;
    if (seen == nullptr) return Refuse("an unknown key");
    return !std::exchange(*seen, true) || Refuse("the key twice");
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      metadata[key_] = value;
      return true;
    }
    if (place_ != Place::kEntry || key_ != "dtype") return Refuse("a text where none belongs");
    entry_->dtype = value;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kEntry || key_ == "dtype") return Refuse("an array where none belongs");
    place_ = Place::kNumbers;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kNumbers) return Refuse("a number where none belongs");
    (key_ == "shape" ? entry_->shape : entry_->offsets).push_back(value);
    return true;
  }

  bool end_array() override {
    place_ = Place::kEntry;
    return key_ != "data_offsets" || entry_->offsets.size() == 2 || Refuse("not two offsets");
  }

  bool end_object() override {
    if (place_ == Place::kEntry &&
        !(entry_->has_dtype && entry_->has_shape && entry_->has_offsets)) {
      return Refuse("dtype, shape or data_offsets is missing");
    }
    place_ = Place::kTop;
    return true;
  }

  bool null() override { return Refuse("null"); }
  bool boolean(bool) override { return Refuse("a boolean"); }
  bool number_integer(number_integer_t) override { return Refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Refuse("a number that is no integer below 2^64");
  }
  bool binary(binary_t&) override { return Refuse("binary"); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    fault = absl::StrCat("the header is no JSON at its byte ", position);
    return false;
  }

 private:
  enum class Place { kStart, kTop, kValueOfTop, kMetadata, kEntry, kNumbers };

  bool Refuse(absl::string_view what) {
    fault = absl::StrCat("the header has ", what);
    if (place_ == Place::kEntry || place_ == Place::kNumbers) {
      absl::StrAppend(&fault, " in tensor ", Shown(name_));
    }
    if (!key_.empty()) absl::StrAppend(&fault, " at key ", Shown(key_));
    return false;
  }

  Place place_ = Place::kStart;
  bool in_metadata_ = false;
  bool has_metadata_ = false;
  HeaderEntry* entry_ = nullptr;
  std::string name_;  // of entry_
  std::string key_;
};

// Bytes of a tensor; -1 if the product overflows.
int64_t TensorBytes(const HeaderEntry& entry) {
  int64_t bytes = BytesOf(entry.dtype);
  for (const uint64_t dimension : entry.shape) {
    if (dimension > std::numeric_limits<int64_t>::max() ||
        __builtin_mul_overflow(bytes, static_cast<int64_t>(dimension), &bytes)) {
      return -1;
    }
  }
  return bytes;
}

// What is wrong with dtypes, shapes and offsets over `data_bytes` bytes of data; "" if nothing.
std::string FaultOfLayout(const std::map<std::string, HeaderEntry>& entries, uint64_t data_bytes) {
  std::vector<std::pair<std::pair<uint64_t, uint64_t>, const std::string*>> ranges;
  for (const auto& [name, entry] : entries) {
    const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
    if (BytesOf(entry.dtype) == 0) {
      return absl::StrCat("tensor ", Shown(name), " has the unknown dtype ", Shown(entry.dtype));
    }
    const int64_t bytes = TensorBytes(entry);
    if (bytes < 0) return absl::StrCat("the shape of tensor ", Shown(name), " overflows");
    if (begin > end || end > data_bytes) {
      return absl::StrCat("the offsets ", begin, " to ", end, " of tensor ", Shown(name),
                          " do not lie in the file's ", data_bytes, " bytes of data");
    }
    if (end - begin != static_cast<uint64_t>(bytes)) {
      return absl::StrCat("tensor ", Shown(name), " has ", end - begin,
                          " bytes, but its dtype and shape make ", bytes);
    }
    ranges.push_back({{begin, end}, &name});
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t reached = 0;
  for (const auto& [range, name] : ranges) {
    if (range.first != reached) {
      return absl::StrCat("tensor ", Shown(*name), " begins at byte ", range.first,
                          " of the data: ",
                          range.first < reached ? "inside the tensor before it"
                                                : "behind a hole after the tensor before it");
    }
    reached = range.second;
  }
  if (reached != data_bytes) {
    return absl::StrCat("the tensors end at byte ", reached, " of the data, which has ",
                        data_bytes);
  }
  return "";
}

// Parses and checks a whole file. "" or the fault.
std::string Parse(absl::string_view file, HeaderReader& reader) {
  if (file.size() < kLengthBytes) return "it is shorter than the 8 bytes of its header's length";
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  }
  file.remove_prefix(kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    return absl::StrCat("its header's length is ", header_bytes, "; the limit is ",
                        kMaxHeaderBytes);
  }
  if (header_bytes > file.size()) {
    return absl::StrCat("its header's length is ", header_bytes, ", but only ", file.size(),
                        " bytes follow");
  }
  const absl::string_view header = file.substr(0, header_bytes);
  if (header.empty() || header[0] != '{') return "its header does not begin with {";
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &reader)) return reader.fault;
  return FaultOfLayout(reader.entries, file.size() - header_bytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return SystemError(errno, "open", path);
  struct stat about {};
  const bool known = fstat(fd, &about) == 0;
  const size_t size = known && S_ISREG(about.st_mode) ? about.st_size : 0;
  void* mapping = size > 0 ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0) : nullptr;
  const int error = errno;
  close(fd);
  if (!known || mapping == MAP_FAILED) return SystemError(error, "read", path);

  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile());
  file->mapping_ = mapping;
  file->mapping_bytes_ = size;
  const char* bytes = static_cast<const char*>(mapping);
  HeaderReader reader;
  if (const std::string fault = Parse(absl::string_view(bytes, size), reader); !fault.empty()) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID,
                     absl::StrCat(path, " is no safetensors file: ", fault));
  }
  uint64_t data_bytes = 0;
  for (const auto& [name, entry] : reader.entries) {
    data_bytes = std::max(data_bytes, entry.offsets[1]);
  }
  const uint8_t* data = static_cast<const uint8_t*>(mapping) + (size - data_bytes);
  for (auto& [name, entry] : reader.entries) {
    file->tensors_[name] = {std::move(entry.dtype),
                            {entry.shape.begin(), entry.shape.end()},
                            data + entry.offsets[0],
                            static_cast<size_t>(entry.offsets[1] - entry.offsets[0])};
  }
  file->metadata_ = std::move(reader.metadata);
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_bytes_);
}

absl::Status WriteSafetensors(const std::string& path,
                              const std::map<std::string, TensorEntry>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  size_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = std::exchange(end, end + tensor.size_bytes);
    header[name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
  }
  // Replaces what is not UTF-8 instead of throwing.
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string length(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<char>(uint64_t{text.size()} >> (8 * i));
  }

  absl::StatusOr<FileWriter> writer = FileWriter::Create(path);
  if (!writer.ok()) return writer.status();
  absl::Status status = writer->Append(length + text);
  for (const auto& [name, tensor] : tensors) {
    if (!status.ok()) return status;
    const auto* bytes = reinterpret_cast<const char*>(tensor.data);
    status = writer->Append(absl::string_view(bytes, tensor.size_bytes));
  }
  return status.ok() ? writer->Close() : status;
}

}  // namespace tasuki
