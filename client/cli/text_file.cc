#include "client/cli/text_file.h"

#include <algorithm>
#include <cerrno>
#include <ext/stdio_filebuf.h>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/text.h"
#include "model/errors/utf8.h"

namespace tasuki::cli {
namespace {

constexpr size_t kMaxRecordBytes = size_t{4} << 20;  // as the server takes them

}  // namespace

TextFormat::Kind TextFormat::KindOf(const std::string& path) {
  const std::string name = absl::AsciiStrToLower(path);
  if (absl::EndsWith(name, ".tsv")) return kTsv;
  if (absl::EndsWith(name, ".csv")) return kCsv;
  return absl::EndsWith(name, ".jsonl") ? kJsonLines : kLines;
}

absl::StatusOr<std::unique_ptr<TextFile>> TextFile::Open(const std::string& path,
                                                         const TextFormat& format) {
  const bool from_stdin = path == "-";
  std::shared_ptr<std::istream> input;
  int64_t size = -1;
  if (from_stdin) {  // not std::cin, which cannot tell what is at hand
    const auto buffer =
        std::make_shared<__gnu_cxx::stdio_filebuf<char>>(0, std::ios::in | std::ios::binary);
    input.reset(new std::istream(buffer.get()), [buffer](std::istream* stream) { delete stream; });
  } else {
    input = std::make_shared<std::ifstream>(path, std::ios::binary);
    const int cause = errno;
    if (!*input) return absl::ErrnoToStatus(cause, absl::StrCat("cannot read ", path));
    std::error_code unknown;
    const auto bytes = std::filesystem::file_size(path, unknown);
    if (!unknown) size = static_cast<int64_t>(bytes);
  }
  std::unique_ptr<TextFile> file(new TextFile(input, from_stdin ? "stdin" : path, format));
  file->total_bytes_ = size;
  if (format.kind == TextFormat::kTsv || format.kind == TextFormat::kCsv) {
    if (absl::Status status = file->ReadHeader(); !status.ok()) return status;
  }
  return file;
}

absl::StatusOr<std::optional<std::string>> TextFile::Next() {
  if (format_.kind == TextFormat::kTsv || format_.kind == TextFormat::kCsv) {
    std::vector<std::string> fields;
    const auto there = ReadRecord(fields);
    if (!there.ok()) return there.status();
    if (!*there) return std::nullopt;
    if (fields.size() != field_count_) {
      return Fault(
          absl::StrCat("has ", fields.size(), " fields where the header has ", field_count_));
    }
    return std::move(fields[text_field_]);
  }
  std::string line;
  while (true) {
    const auto there = ReadLine(line);
    if (!there.ok()) return there.status();
    if (!*there) return std::nullopt;
    if (format_.kind == TextFormat::kLines) return line;
    if (line.find_first_not_of(" \t") == std::string::npos) continue;  // a blank line
    auto text = TextOfJson(line);
    if (!text.ok()) return text.status();
    return *std::move(text);
  }
}

bool TextFile::at_hand() { return input_->rdbuf()->in_avail() > 0; }

absl::Status TextFile::ReadHeader() {
  std::vector<std::string> columns;
  const auto there = ReadRecord(columns);
  if (!there.ok()) return there.status();
  if (!*there) return absl::InvalidArgumentError(absl::StrCat(name_, " is empty"));
  field_count_ = columns.size();
  text_field_ = std::find(columns.begin(), columns.end(), format_.text_column) - columns.begin();
  const auto count = std::count(columns.begin(), columns.end(), format_.text_column);
  if (count == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name_, count == 0 ? " has no column \"" : " has more than one column \"",
                   format_.text_column, "\"; its columns are ", absl::StrJoin(columns, ", "),
                   ". Name the one of the texts with --text-column"));
}

absl::StatusOr<bool> TextFile::ReadLine(std::string& line) {
  if (!std::getline(*input_, line)) {
    if (input_->bad()) return absl::DataLossError(absl::StrCat("reading ", name_, " failed"));
    return false;
  }
  record_line_ = ++line_;
  done_bytes_ += static_cast<int64_t>(line.size()) + (input_->eof() ? 0 : 1);
  if (!line.empty() && line.back() == '\r') line.pop_back();
  if (line_ == 1 && absl::StartsWith(line, "\xef\xbb\xbf")) line.erase(0, 3);
  if (FirstInvalidUtf8(line) != line.npos) return Fault("is not UTF-8; convert it first");
  return true;
}

absl::StatusOr<bool> TextFile::ReadRecord(std::vector<std::string>& fields) {
  std::string line;
  do {
    const auto there = ReadLine(line);
    if (!there.ok() || !*there) return there;
  } while (line.empty());
  const int64_t first = line_;
  const char delimiter = format_.kind == TextFormat::kTsv ? '\t' : ',';
  fields.assign(1, "");
  size_t i = 0;
  while (true) {
    if (format_.quoting && i < line.size() && line[i] == '"') {
      for (++i;
           i >= line.size() || line[i] != '"' || (i + 1 < line.size() && line[i + 1] == '"');) {
        if (i < line.size()) {  // a doubled quote stands for one
          fields.back() += line[i];
          i += line[i] == '"' ? 2 : 1;
          continue;
        }
        fields.back() += '\n';
        const auto there = ReadLine(line);
        if (!there.ok()) return there.status();
        record_line_ = first;
        if (!*there || fields.back().size() > kMaxRecordBytes) {
          return Fault("opens a quote that is not closed (is --quoting none meant?)");
        }
        i = 0;
      }
      ++i;
      if (i < line.size() && line[i] != delimiter) {
        return Fault("has something after the closing quote of a field");
      }
    }
    while (i < line.size() && line[i] != delimiter) fields.back() += line[i++];
    if (i >= line.size()) break;
    ++i;
    fields.emplace_back();
  }
  record_line_ = first;
  return true;
}

absl::StatusOr<std::string> TextFile::TextOfJson(const std::string& line) const {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains(format_.text_column) ||
      !json[format_.text_column].is_string()) {
    return Fault(absl::StrCat("is not a JSON object with a string \"", format_.text_column, "\""));
  }
  return json[format_.text_column].get<std::string>();
}

absl::Status TextFile::Fault(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(name_, ":", record_line_, " ", what));
}

}  // namespace tasuki::cli
