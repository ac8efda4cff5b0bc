// Client of a Tasuki server: the public C++ API of the product. Start here.
//
//   absl::StatusOr<tasuki::Client> client = tasuki::Client::Connect("localhost:8500");
//   if (!client.ok()) return client.status();
//   tasuki::v1::ClassifyRequest request;
//   request.set_model("models/reviews");
//   request.add_texts("とても良い商品でした。");
//   absl::StatusOr<tasuki::v1::ClassifyResponse> response = client->Classify(request);
//
// Threads. A Client is thread-safe: any number of threads may call it at once. A call blocks its
// thread until it has an answer; callbacks run on the calling thread, before the call returns.
//
// Errors. An error of the server has the server's canonical code and message, and its details as
// payloads; client/errors.h reads them (reason, faults of fields). Beside those every call can end
// with UNAVAILABLE (no server answers at the address), FAILED_PRECONDITION (TLS cannot be agreed
// on; the message says why), DEADLINE_EXCEEDED (its time is over; what the server did is unknown)
// and CANCELLED (ClientOptions::stop).
//
// Retries. A call that ends UNAVAILABLE, or RESOURCE_EXHAUSTED with a time after which to try
// again, is made again up to `max_attempts` times while its time lasts, after waits that double and
// vary at random. No other error is retried. To make a second attempt harmless, the client gives
// every creating request a request_id; an upload is repeated only if its source can be read again.
//
// Lifetimes. A Client owns its connection and may be moved; a moved-from one may only be destroyed
// or assigned to. Destroy it after its calls have returned. Messages that it returns belong to the
// caller. Names are full resource names: `datasets/{id}`, `trainingJobs/{id}`, `models/{model}`,
// `models/{model}/versions/{version}`, `models/{model}/aliases/{alias}`.
//
// Linking. From a CMake project of your own, on a machine where script/bootstrap ran:
//
//   add_subdirectory(tasuki EXCLUDE_FROM_ALL)  # a clone; likewise FetchContent
//   target_link_libraries(my_program PRIVATE tasuki_client)
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <limits>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tasuki/v1/classification.pb.h"
#include "tasuki/v1/datasets.pb.h"
#include "tasuki/v1/models.pb.h"
#include "tasuki/v1/server.pb.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

struct ClientOptions {
  // How long a call may take, attempts and waits between them together.
  absl::Duration timeout = absl::Seconds(30);
  absl::Duration classify_timeout = absl::Seconds(60);
  absl::Duration load_timeout = absl::Minutes(10);
  // InspectDataset with a report, EstimateTrainingJob.
  absl::Duration report_timeout = absl::Minutes(20);
  // UploadDataset, CheckDataset, DownloadPredictions, ImportModelVersion, ExportModelVersion,
  // ExportAdapter.
  absl::Duration transfer_timeout = absl::Hours(6);
  // How long WatchTrainingJob and StreamClassify go on trying to reach a server that does not
  // answer.
  absl::Duration patience = absl::Minutes(2);

  // TLS if `tls_ca` is given. Paths of PEM files, read by Connect: who signs the certificates of
  // servers; and this client's certificate with its key, if the server asks for one.
  std::string tls_ca;
  std::string tls_certificate;
  std::string tls_key;
  // Goes with every call, if given; only over TLS, or to an address of this machine.
  std::string token;

  // 1 for no retries.
  int max_attempts = 5;
  // Mean waits before the second attempt and between later ones, which grow up to the second.
  absl::Duration first_backoff = absl::Milliseconds(200);
  absl::Duration max_backoff = absl::Seconds(5);

  // Ends every call of this client, now and later, with CANCELLED once stop is requested.
  std::stop_token stop;
};

// Told now and then how many bytes have been handed over, and of how many (-1: unknown).
using TransferProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// The requests of StreamClassify, one after the other; nothing at the end.
using NextClassification = std::function<absl::StatusOr<std::optional<v1::ClassifyRequest>>()>;
// Told each request with its answer.
using UseClassification =
    std::function<absl::Status(const v1::ClassifyRequest&, const v1::ClassifyResponse&)>;

// The bytes of an upload. A value; cheap to copy.
class UploadSource {
 public:
  // A file, read when the upload begins, and again should it have to be repeated.
  static UploadSource File(std::string path);
  // These bytes.
  static UploadSource Bytes(std::string bytes);
  // A stream that can be read once: its hash cannot be declared beforehand, and an upload that
  // fails is not repeated. `stream` must outlive the upload.
  static UploadSource Stream(std::istream& stream);

  bool repeatable() const { return stream_ == nullptr; }
  // A reader at the beginning. NOT_FOUND, PERMISSION_DENIED, or INVALID_ARGUMENT for a directory, a
  // pipe or a device, naming the file.
  absl::StatusOr<std::shared_ptr<std::istream>> Open() const;

 private:
  std::string path_;
  std::shared_ptr<const std::string> bytes_;
  std::istream* stream_ = nullptr;
};

class Client {
 public:
  static constexpr size_t kAll = std::numeric_limits<size_t>::max();

  // `address` is HOST:PORT. Does not wait for the server: the first call does. INVALID_ARGUMENT if
  // the address is not of that form, a file of TLS cannot be read, or a token would go in the clear
  // to another machine.
  static absl::StatusOr<Client> Connect(const std::string& address, ClientOptions options = {});
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // ---- Classification ----
  // Every text by every wanted task. Its options are those of the request: `top_k`, `truncation`,
  // `priority`.
  absl::StatusOr<v1::ClassifyResponse> Classify(const v1::ClassifyRequest& request);
  // The same for many requests, on one stream: what waits in bulk goes after what is interactive,
  // and a full queue is waited for. `next` is asked for requests ahead of their answers, at most
  // some 100 or 1 MiB; `use` gets each with its answer, in order. Ends with the first error of a
  // request, of `next`, or of `use`. When the connection is lost, or a request fails that may go
  // better in a moment, what was not answered is sent again, for as long as an answer comes within
  // `patience`; `on_lost`, if given, is told of each time. DEADLINE_EXCEEDED if a server is reached
  // and no answer comes for `classify_timeout`.
  absl::Status StreamClassify(const NextClassification& next, const UseClassification& use,
                              const std::function<void(const absl::Status&)>& on_lost = nullptr);

  // ---- Datasets ----
  // Uploads what `source` holds; `header.sha256` is filled in if the source can be read twice.
  absl::StatusOr<v1::Dataset> UploadDataset(const UploadSource& source,
                                            v1::UploadDatasetHeader header,
                                            const TransferProgress& progress = nullptr);
  // The same, but nothing is stored and every bad row is told.
  absl::StatusOr<v1::CheckDatasetResponse> CheckDataset(const UploadSource& source,
                                                        v1::UploadDatasetHeader header,
                                                        const TransferProgress& progress = nullptr);
  absl::StatusOr<v1::Dataset> GetDataset(const std::string& name);
  // The newest `limit`, of as many pages as it takes; likewise the other lists.
  absl::StatusOr<std::vector<v1::Dataset>> ListDatasets(size_t limit = kAll);
  absl::StatusOr<v1::InspectDatasetResponse> InspectDataset(
      const v1::InspectDatasetRequest& request);
  absl::Status DeleteDataset(const std::string& name);

  // ---- Training jobs ----
  // Without `request_id` one is made, so that a repeated attempt cannot create a second job.
  absl::StatusOr<v1::TrainingJob> CreateTrainingJob(v1::CreateTrainingJobRequest request);
  absl::StatusOr<v1::EstimateTrainingJobResponse> EstimateTrainingJob(
      const v1::EstimateTrainingJobRequest& request);
  absl::StatusOr<v1::TrainingJob> GetTrainingJob(const std::string& name);
  // Empty `states` means all.
  absl::StatusOr<std::vector<v1::TrainingJob>> ListTrainingJobs(
      const std::vector<v1::TrainingJob::State>& states = {}, size_t limit = kAll);
  absl::StatusOr<v1::TrainingJob> CancelTrainingJob(const std::string& name);
  absl::StatusOr<v1::TrainingJob> PauseTrainingJob(const std::string& name);
  absl::StatusOr<v1::TrainingJob> ResumeTrainingJob(const std::string& name);
  absl::StatusOr<v1::TrainingJob> FinishTrainingJob(const std::string& name);
  absl::StatusOr<v1::TrainingJob> RetryTrainingJob(const std::string& name);
  absl::StatusOr<std::vector<std::string>> GetTrainingJobLog(const std::string& name,
                                                             int line_count = 0);
  absl::Status DeleteTrainingJob(const std::string& name);
  // Writes the answers of an evaluation beside `file` and then renames: JSON Lines, as
  // TrainingService.DownloadPredictions describes them. DATA_LOSS if bytes are missing.
  absl::Status DownloadPredictions(const std::string& name, const std::string& file,
                                   const TransferProgress& progress = nullptr);

  // Hands every event from `from_sequence` on (0 and 1: all) to `on_event`, in order and each
  // exactly once, and returns OK after the last event of an ended job. When the connection is lost,
  // goes on from the last event + 1, for as long as a server answers within `patience`;
  // `on_lost`, if given, is told of each loss. No deadline. DATA_LOSS if the server left out an
  // event.
  absl::Status WatchTrainingJob(const std::string& name, int64_t from_sequence,
                                const std::function<void(const v1::TrainingJobEvent&)>& on_event,
                                const std::function<void(const absl::Status&)>& on_lost = nullptr);

  // ---- Models ----
  // Imports the files of a Hugging Face T5 `directory` that the server takes (config.json,
  // *.safetensors, spiece.model and the like) as a new version of `model`. INVALID_ARGUMENT before
  // anything is sent if a needed one is missing.
  absl::StatusOr<v1::ModelVersion> ImportModelVersion(const std::string& model,
                                                      const std::string& directory,
                                                      const TransferProgress& progress = nullptr);
  // Writes the files of version `name` beside `directory`, checks sizes and hashes, and then
  // renames: `directory` is there whole or not at all. ALREADY_EXISTS if it holds anything.
  // DATA_LOSS if the bytes are not those that the server declared.
  absl::Status ExportModelVersion(const std::string& name, const std::string& directory,
                                  const TransferProgress& progress = nullptr);
  // The same of the adapter alone, as peft reads it. INVALID_ARGUMENT if the version has none.
  absl::Status ExportAdapter(const std::string& name, const std::string& directory,
                             const TransferProgress& progress = nullptr);
  absl::StatusOr<v1::Model> GetModel(const std::string& name);
  absl::StatusOr<std::vector<v1::Model>> ListModels(size_t limit = kAll);
  // `models/{model}` answers its newest version, an alias the one that it names.
  absl::StatusOr<v1::ModelVersion> GetModelVersion(const std::string& name);
  absl::StatusOr<std::vector<v1::ModelVersion>> ListModelVersions(const std::string& model,
                                                                  size_t limit = kAll);
  absl::StatusOr<v1::ModelVersion> LoadModelVersion(const std::string& name);
  absl::StatusOr<v1::ModelVersion> UnloadModelVersion(const std::string& name);
  absl::Status DeleteModelVersion(const std::string& name);

  // ---- Aliases of models ----
  // Those that load a version first may take up to `load_timeout`.
  absl::StatusOr<v1::ModelAlias> SetModelAlias(const std::string& name,
                                               const std::string& model_version);
  absl::StatusOr<v1::ModelAlias> RollbackModelAlias(const std::string& name);
  // An empty version ends the shadow.
  absl::StatusOr<v1::ModelAlias> ShadowModelAlias(const std::string& name,
                                                  const std::string& model_version);
  absl::StatusOr<v1::ModelAlias> GetModelAlias(const std::string& name);
  absl::StatusOr<std::vector<v1::ModelAlias>> ListModelAliases(const std::string& model,
                                                               size_t limit = kAll);
  absl::Status DeleteModelAlias(const std::string& name);

  // ---- Server ----
  absl::StatusOr<v1::ServerInfo> GetServerInfo();
  absl::StatusOr<v1::ServerInfo> SetLogLevel(const std::string& level);
  // OK if the server says that it serves, by the standard health service; asks once. UNAVAILABLE if
  // it starts or stops, or does not answer.
  absl::Status CheckHealth();

 private:
  struct Connection;
  explicit Client(std::unique_ptr<Connection> connection);
  absl::Status Export(const std::string& name, bool adapter, const std::string& directory,
                      const TransferProgress& progress);

  std::unique_ptr<Connection> connection_;
};

// A new random UUID, for request_id.
std::string NewRequestId();

}  // namespace tasuki
