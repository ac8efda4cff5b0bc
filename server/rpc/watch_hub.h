// Streams of job events: every watcher is a cursor over the store, moved by one thread.
//
// The hub's thread reads the next events of a watcher whose last write is done and whose job has
// news, and gives them to it; gRPC's threads write them out one by one. Watchers that stand at the
// same event of a job share one reading of it, so a thousand of them cost the store little more
// than one. A slow client costs one batch of events, however far behind it is. Only the hub's
// thread ends a stream, so a watcher outlives everything that the hub does with it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/support/server_callback.h"
#include "server/store/job_table.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Thread-safe.
class WatchHub {
 public:
  explicit WatchHub(JobTable& jobs);
  // REQUIRES: Drain was called and the gRPC server has ended all calls.
  ~WatchHub();

  // Starts a stream of a job's events from `from_sequence` on; the reactor frees itself. NOT_FOUND
  // if there is no such job. Ends with OK after the last event of an ended job. Never blocks.
  grpc::ServerWriteReactor<v1::WatchTrainingJobResponse>* Watch(
      grpc::CallbackServerContext& context, const std::string& job, int64_t from_sequence);
  // The job has new events or is gone. Never blocks: this is Jobs::Listener.
  void Wake(const std::string& job);
  // Ends every stream with UNAVAILABLE (DRAINING), new ones too. One whose client does not take
  // what is written to it is cut off after a second.
  void Drain();

 private:
  class Watcher;
  friend class Watcher;
  struct State {
    bool writing = false;  // a batch is on its way
    bool gone = false;     // the client is
  };
  // What stands after one event of a job, as one reading of the store has it.
  struct Reading {
    absl::Status status;
    bool ended = false;  // the job had, so there will be no more events
    std::shared_ptr<const std::vector<v1::TrainingJobEvent>> events;
  };
  using Readings = std::map<std::pair<std::string, int64_t>, Reading>;  // by job and sequence

  void Run();
  // Cancels the streams that cannot be ended since a write does not come to its end.
  void CutOff() ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || drain_begins_ || !ready_.empty();
  }
  std::vector<Watcher*> TakeReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Reading Read(const std::string& job, int64_t from_sequence) ABSL_LOCKS_EXCLUDED(mutex_);
  void Serve(Watcher& watcher, Readings& readings) ABSL_LOCKS_EXCLUDED(mutex_);
  void End(Watcher& watcher, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // From the reactions.
  void Written(Watcher* watcher, bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  void Gone(Watcher* watcher) ABSL_LOCKS_EXCLUDED(mutex_);

  JobTable& jobs_;

  // Never held across the store or gRPC.
  absl::Mutex mutex_;
  std::map<Watcher*, State> watchers_ ABSL_GUARDED_BY(mutex_);
  // Those that something changed for. One that is being written to waits for the end of that.
  std::set<Watcher*> ready_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drain_begins_ ABSL_GUARDED_BY(mutex_) = false;  // and the hub's thread has not seen it yet
  absl::Time cut_off_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace tasuki
