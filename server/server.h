// The composition root: the only place that sees every room.
//
//   start: data directory → metrics → store → datasets → model registry → jobs → gRPC → health
//   stop:  health says no → no new calls, those under way end → jobs (checkpoints) → registry →
//   store
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/options.h"

namespace tasuki {

// A running server. Start and Stop on one thread.
class Server {
 public:
  // Answers once it serves. FAILED_PRECONDITION if the data directory is in use, an address cannot
  // be bound, or a file of tokens or certificates cannot be taken; else what the store met.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Options& options);
  ~Server();

  // Ends calls, saves jobs and joins every thread. Takes at most about twice drain_seconds.
  void Stop();

  // Addresses in use; empty where there is none.
  const std::string& listen() const;
  const std::string& metrics_listen() const;
  const std::string& health_listen() const;

 private:
  struct Rooms;
  explicit Server(std::unique_ptr<Rooms> rooms);
  std::unique_ptr<Rooms> rooms_;
};

}  // namespace tasuki
