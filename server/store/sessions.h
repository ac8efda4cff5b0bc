// Connections and transactions of the store. Private to server/store.
//
// SOCI runs a statement at the end of the full expression, when the temporaries of that expression
// are gone: what is given to soci::use must have a name.
//
// The bodies given to Read and Write are written with SOCI, which throws: whatever a body throws
// rolls its transaction back and becomes a status here. A body that answers an error rolls back as
// well.
#pragma once

#include <soci/soci.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "google/protobuf/message.h"
#include "server/metrics/metrics.h"
#include "server/store/store.h"

namespace tasuki {

// A row that cannot be read: DATA_LOSS.
struct DamagedRow : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A row with a field that this program does not know: DATA_LOSS.
struct NewerRow : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A message as it stands in a row. FromJson throws DamagedRow and NewerRow.
std::string ToJson(const google::protobuf::Message& message);
void FromJson(const std::string& json, google::protobuf::Message& message);
template <typename T>
T FromJson(const std::string& json) {
  T message;
  FromJson(json, message);
  return message;
}

// The next value of one of the counters of the schema. Inside Write only.
long long NextValue(soci::session& sql, const std::string& counter);

// The exception that is being handled, as a status. With `path` it is for the operator, who starts
// the server; callers are not told where the store is.
absl::Status StatusOfException(const std::string& path = "");

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// Thread-safe.
class Store::Sessions {
 public:
  static absl::StatusOr<std::unique_ptr<Sessions>> Open(const std::string& path, Metrics& metrics);

  // Runs `body(session)`, which answers a Status or StatusOr, in a transaction that sees one state
  // of the store. `operation` is a name of metrics' closed list.
  template <typename Body>
  auto Read(const char* operation, Body body) {
    const absl::Time start = absl::Now();
    std::unique_ptr<soci::session> reader = TakeReader();
    auto result = Run(*reader, "BEGIN", body);
    GiveBack(std::move(reader));
    Observe(operation, start, StatusOf(result));
    return result;
  }

  // The same with the writer. One body at a time; it must not call the store again.
  template <typename Body>
  auto Write(const char* operation, Body body) ABSL_LOCKS_EXCLUDED(write_mutex_) {
    const absl::Time start = absl::Now();
    absl::MutexLock lock(&write_mutex_);
    metrics_.UseStoreConnections(1);
    auto result = Run(*writer_, "BEGIN IMMEDIATE", body);
    metrics_.UseStoreConnections(-1);
    Observe(operation, start, StatusOf(result));
    return result;
  }

  Metrics& metrics() { return metrics_; }

 private:
  explicit Sessions(Metrics& metrics) : metrics_(metrics) {}

  template <typename Body>
  std::invoke_result_t<Body, soci::session&> Run(soci::session& sql, const char* begin,
                                                 Body& body) {
    try {
      sql << begin;
      auto result = body(sql);
      sql << (result.ok() ? "COMMIT" : "ROLLBACK");
      return result;
    } catch (...) {
      absl::Status status = StatusOfException();
      RollBack(sql);
      return status;
    }
  }
  std::unique_ptr<soci::session> TakeReader() ABSL_LOCKS_EXCLUDED(read_mutex_);
  void GiveBack(std::unique_ptr<soci::session> reader) ABSL_LOCKS_EXCLUDED(read_mutex_);
  void Observe(const char* operation, absl::Time start, const absl::Status& status);
  static void RollBack(soci::session& sql);

  Metrics& metrics_;
  // Held through a whole transaction: it is what makes the writer one. Never taken together with
  // read_mutex_.
  absl::Mutex write_mutex_;
  std::unique_ptr<soci::session> writer_ ABSL_GUARDED_BY(write_mutex_);
  absl::Mutex read_mutex_;
  std::vector<std::unique_ptr<soci::session>> idle_readers_ ABSL_GUARDED_BY(read_mutex_);
};

}  // namespace tasuki
