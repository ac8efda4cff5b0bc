#include "model/text/delimited.h"

#include <utility>

#include "absl/strings/strip.h"

namespace tasuki {

RecordSplitter::RecordSplitter(std::optional<char> delimiter, size_t max_bytes)
    : delimiter_(delimiter), max_bytes_(max_bytes) {}

RecordSplitter::State RecordSplitter::Next(char c) const {
  if (!delimiter_ || too_long_) return State::kInField;
  if (state_ == State::kInQuotes) return c == '"' ? State::kAfterQuote : State::kInQuotes;
  if (c == *delimiter_) return State::kFieldStart;
  const bool opens = state_ == State::kFieldStart || state_ == State::kAfterQuote;
  return c == '"' && opens ? State::kInQuotes : State::kInField;
}

absl::Status RecordSplitter::Feed(absl::string_view bytes, const Sink& sink) {
  size_t kept = 0;  // bytes before this one are in record_ or were dropped
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == '\n') ++line_;
    if (bytes[i] == '\n' && state_ != State::kInQuotes) {
      if (!too_long_) record_.append(bytes.data() + kept, i - kept);
      kept = i + 1;
      offset_ += 1;
      if (absl::Status status = EndRecord(sink); !status.ok()) return status;
      continue;
    }
    ++offset_;
    state_ = Next(bytes[i]);
    if (!too_long_ && static_cast<size_t>(offset_ - record_offset_) > max_bytes_) {
      record_.append(bytes.data() + kept, i - kept);
      too_long_ = true;
      state_ = State::kInField;
    }
  }
  if (!too_long_) record_.append(bytes.data() + kept, bytes.size() - kept);
  return absl::OkStatus();
}

absl::Status RecordSplitter::Finish(const Sink& sink) {
  return offset_ > record_offset_ ? EndRecord(sink) : absl::OkStatus();
}

absl::Status RecordSplitter::EndRecord(const Sink& sink) {
  Record record{record_, record_line_, record_offset_, too_long_};
  if (state_ != State::kInQuotes) record.bytes = absl::StripSuffix(record.bytes, "\r");
  const absl::Status status = sink(record);
  record_.clear();
  too_long_ = false;
  state_ = State::kFieldStart;
  record_line_ = line_;
  record_offset_ = offset_;
  return status;
}

std::optional<BadField> SplitFields(absl::string_view record, char delimiter, bool quoting,
                                    std::vector<std::string>& fields) {
  fields.clear();
  size_t at = 0;
  while (true) {
    std::string field;
    if (quoting && at < record.size() && record[at] == '"') {
      while (true) {
        const size_t quote = record.find('"', at + 1);
        if (quote == absl::string_view::npos) {
          return BadField{fields.size(), "opens with a quote that is not closed"};
        }
        field.append(record.data() + at + 1, quote - at - 1);
        at = quote + 1;
        if (at == record.size() || record[at] != '"') break;
        field += '"';
      }
      if (at < record.size() && record[at] != delimiter) {
        return BadField{fields.size(), "goes on after its closing quote"};
      }
    } else {
      const size_t end = std::min(record.find(delimiter, at), record.size());
      field.assign(record.data() + at, end - at);
      at = end;
    }
    fields.push_back(std::move(field));
    if (at == record.size()) return std::nullopt;
    ++at;
  }
}

}  // namespace tasuki
