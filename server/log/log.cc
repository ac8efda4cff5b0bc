#include "server/log/log.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "nlohmann/json.hpp"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/base_sink.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

using Field = std::pair<const char*, std::string>;

std::vector<Field>& FieldsOfThread() {
  thread_local std::vector<Field> fields;
  return fields;
}

// As a JSON string. What is not UTF-8 becomes U+FFFD.
std::string Json(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string OneLine(const std::string& text) {
  std::string line;
  for (const char c : text) {
    if (c == '\n') {
      line += "\\n";
    } else if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(c));
      line += escaped;
    } else {
      line += c;
    }
  }
  return line;
}

// The message with its fields: what a line has after time and level.
class Message : public spdlog::custom_flag_formatter {
 public:
  explicit Message(LogFormat format) : format_(format) {}
  void format(const spdlog::details::log_msg& msg, const std::tm&,
              spdlog::memory_buf_t& line) override {
    const std::string text(msg.payload.data(), msg.payload.size());
    std::string out = format_ == LogFormat::kJson ? Json(text) : OneLine(text);
    const char* before = " [";
    for (const auto& [name, value] : FieldsOfThread()) {
      if (format_ == LogFormat::kJson) {
        out.append(",\"").append(name).append("\":").append(Json(value));
      } else {
        out.append(std::exchange(before, " ")).append(name).append("=").append(OneLine(value));
      }
    }
    if (format_ == LogFormat::kText && !FieldsOfThread().empty()) out += "]";
    line.append(out.data(), out.data() + out.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<Message>(format_);
  }

 private:
  const LogFormat format_;
};

}  // namespace

class LogCounter::Sink : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  explicit Sink(Metrics& metrics) : metrics_(metrics) {}

 private:
  void sink_it_(const spdlog::details::log_msg& msg) override {
    metrics_.CountLogMessage(msg.level >= spdlog::level::err    ? Metrics::LogLevel::kError
                             : msg.level == spdlog::level::warn ? Metrics::LogLevel::kWarning
                             : msg.level == spdlog::level::info ? Metrics::LogLevel::kInfo
                                                                : Metrics::LogLevel::kDebug);
  }
  void flush_() override {}

  Metrics& metrics_;
};

void SetUpLog(LogFormat format) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<Message>('*', format);
  formatter->set_pattern(format == LogFormat::kJson
                             ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","message":%*})"
                             : "%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ %*");
  std::shared_ptr<spdlog::sinks::sink> sink;
  if (format == LogFormat::kJson) {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  } else {
    sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  }
  sink->set_formatter(std::move(formatter));
  auto logger = std::make_shared<spdlog::logger>("tasukid", std::move(sink));
  logger->set_level(spdlog::get_level());
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

bool SetLogLevel(const std::string& level) {
  if (std::find(std::begin(kLogLevels), std::end(kLogLevels), level) == std::end(kLogLevels)) {
    return false;
  }
  spdlog::set_level(spdlog::level::from_str(level));
  return true;
}

std::string LogLevelName() {
  const auto name = spdlog::level::to_string_view(spdlog::get_level());
  return {name.data(), name.size()};
}

LogFields::LogFields(std::initializer_list<Field> fields) : before_(FieldsOfThread().size()) {
  for (const Field& field : fields) {
    if (!field.second.empty()) FieldsOfThread().push_back(field);
  }
}

LogFields::~LogFields() { FieldsOfThread().resize(before_); }

LogCounter::LogCounter(Metrics& metrics) : sink_(std::make_shared<Sink>(metrics)) {
  spdlog::default_logger()->sinks().push_back(sink_);
}

LogCounter::~LogCounter() {
  auto& sinks = spdlog::default_logger()->sinks();
  sinks.erase(std::remove(sinks.begin(), sinks.end(), sink_), sinks.end());
}

}  // namespace tasuki
