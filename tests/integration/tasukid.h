// A real tasukid as a child process, with the stubs to talk to it. For tests only: what goes wrong
// here ends the test by an exception.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "tasuki/v1/classification.grpc.pb.h"
#include "tasuki/v1/datasets.grpc.pb.h"
#include "tasuki/v1/errors.pb.h"
#include "tasuki/v1/models.grpc.pb.h"
#include "tasuki/v1/training.grpc.pb.h"

namespace tasuki {

// A directory under /tmp, removed with this object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Not thread-safe, but the stubs are.
class Tasukid {
 public:
  struct Options {
    std::string data_dir;
    std::vector<std::string> flags;    // beside the addresses, the data directory and threads
    std::vector<std::string> wrapper;  // a command that runs what follows it
  };
  // Starts it on free ports and waits until it serves.
  explicit Tasukid(const Options& options);
  explicit Tasukid(const std::string& data_dir) : Tasukid(Options{.data_dir = data_dir}) {}
  // SIGTERM, and the test fails if it does not exit with 0.
  ~Tasukid();

  // Exit code after SIGTERM; -1 if a signal ended it.
  int Terminate();
  // The same after a signal that was sent already.
  int AwaitExit();
  // kill -9.
  void Kill();
  // The process id of its tasuki-trainer, once there is one.
  pid_t AwaitTrainer() const;

  // What it answers to GET /metrics.
  std::string Metrics() const;
  pid_t pid() const { return pid_; }
  const std::string& listen() const { return listen_; }

  // Uploads bytes in pieces, answers the status.
  grpc::Status Upload(const v1::UploadDatasetHeader& header, const std::string& bytes,
                      v1::Dataset* dataset);
  // Uploads rows of "text<TAB>label" under a header row; answers the dataset's name.
  std::string UploadRows(const std::string& display_name, const std::string& rows);
  grpc::Status Create(const v1::TrainingJob& job, v1::TrainingJob* created);
  // Creates a job that must be good; answers its name.
  std::string Submit(const v1::TrainingJob& job);
  v1::TrainingJob GetJob(const std::string& name);
  // Reads events from `from_sequence` on until `wanted` is true of one; false if the job or the
  // server ended before. Events are checked to be numbered without gaps.
  bool Watch(const std::string& name, int64_t from_sequence,
             const std::function<bool(const v1::TrainingJobEvent&)>& wanted);
  // Watches a job to its end.
  v1::TrainingJob AwaitEnd(const std::string& name);
  // Waits until a version answers: after a start of the server it is loaded in the background.
  void AwaitLoaded(const std::string& model);
  grpc::Status Classify(const std::string& model, const std::vector<std::string>& texts,
                        v1::ClassifyResponse* response);

  std::unique_ptr<v1::DatasetService::Stub> datasets;
  std::unique_ptr<v1::TrainingService::Stub> training;
  std::unique_ptr<v1::ModelService::Stub> models;
  std::unique_ptr<v1::ClassificationService::Stub> classification;

 private:
  int Wait();

  pid_t pid_ = 0;
  std::string listen_, metrics_address_;
};

// Waits until a process is gone, or a zombie that nobody has waited for.
void AwaitDeath(pid_t pid);

// The reason that the server gave with an error.
v1::ErrorReason ReasonOf(const grpc::Status& status);

}  // namespace tasuki
