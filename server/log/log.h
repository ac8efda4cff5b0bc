// The server's log: one line an event to standard error, as text or as JSON. Lines are written with
// spdlog; this says how they look, what a call adds to its own, and counts them.
//
// JSON lines have `time` (RFC 3339), `level`, `message`, and the fields of LogFields. In a text
// line the fields stand at its end, in brackets. Whatever a message holds, it stays one line:
// control characters are escaped.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "server/metrics/metrics.h"

namespace tasuki {

enum class LogFormat { kText, kJson };

// What --log_level may be, from the most to the least that is said.
inline constexpr const char* kLogLevels[] = {"debug", "info", "warning", "error", "off"};

// Makes it the program's log. Any thread may log meanwhile.
void SetUpLog(LogFormat format);
// From now on, in every thread. False for what is none of kLogLevels.
bool SetLogLevel(const std::string& level);
// One of kLogLevels.
std::string LogLevelName();

// Fields of every line that this thread logs while it lives. They may be nested.
class LogFields {
 public:
  // Those with an empty value are left out.
  explicit LogFields(std::initializer_list<std::pair<const char*, std::string>> fields);
  ~LogFields();
  LogFields(const LogFields&) = delete;
  LogFields& operator=(const LogFields&) = delete;

 private:
  size_t before_;  // how many there were
};

// Counts lines in `metrics` while it lives. No other thread may log when it begins or ends.
class LogCounter {
 public:
  explicit LogCounter(Metrics& metrics);
  ~LogCounter();
  LogCounter(const LogCounter&) = delete;
  LogCounter& operator=(const LogCounter&) = delete;

 private:
  class Sink;
  std::shared_ptr<Sink> sink_;
};

}  // namespace tasuki
