#include "server/rpc/training_service.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "server/rpc/names.h"
#include "server/rpc/status.h"

namespace tasuki {
namespace {

// A stream that fails before it begins.
class FailedWatch final : public grpc::ServerWriteReactor<v1::WatchTrainingJobResponse> {
 public:
  explicit FailedWatch(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

absl::Status CheckCursor(const v1::WatchTrainingJobRequest& request) {
  if (absl::Status status = CheckJobName(request.name()); !status.ok()) return status;
  Faults faults;
  if (request.from_sequence() < 0) {
    faults.Add("from_sequence", absl::StrCat(request.from_sequence(), " is negative"));
  }
  return faults.ToStatus();
}

}  // namespace

TrainingService::TrainingService(Jobs& jobs, JobTable& table, WatchHub& watchers)
    : jobs_(jobs), table_(table), watchers_(watchers) {}

grpc::Status TrainingService::CreateTrainingJob(grpc::ServerContext*,
                                                const v1::CreateTrainingJobRequest* request,
                                                v1::TrainingJob* response) {
  return Answer([&] { return Assign(jobs_.Create(*request), response); });
}

grpc::Status TrainingService::GetTrainingJob(grpc::ServerContext*,
                                             const v1::GetTrainingJobRequest* request,
                                             v1::TrainingJob* response) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    return Assign(table_.Get(request->name()), response);
  });
}

grpc::Status TrainingService::ListTrainingJobs(grpc::ServerContext*,
                                               const v1::ListTrainingJobsRequest* request,
                                               v1::ListTrainingJobsResponse* response) {
  return Answer([&]() -> absl::Status {
    std::set<v1::TrainingJob::State> states;  // a client may send any number, any number of times
    for (const int state : request->states()) {
      if (!v1::TrainingJob::State_IsValid(state) || state == v1::TrainingJob::STATE_UNSPECIFIED) {
        Faults faults;
        faults.Add("states", absl::StrCat(state, " is not a state of a job"));
        return faults.ToStatus();
      }
      states.insert(static_cast<v1::TrainingJob::State>(state));
    }
    auto page =
        table_.List({states.begin(), states.end()}, request->page_size(), request->page_token());
    if (!page.ok()) return page.status();
    response->mutable_training_jobs()->Assign(page->rows.begin(), page->rows.end());
    response->set_next_page_token(page->next_page_token);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchTrainingJobResponse>* TrainingService::WatchTrainingJob(
    grpc::CallbackServerContext* context, const v1::WatchTrainingJobRequest* request) {
  if (absl::Status status = CheckCursor(*request); !status.ok()) return new FailedWatch(status);
  return watchers_.Watch(*context, request->name(), request->from_sequence());
}

grpc::Status TrainingService::CancelTrainingJob(grpc::ServerContext*,
                                                const v1::CancelTrainingJobRequest* request,
                                                v1::TrainingJob* response) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    return Assign(jobs_.Cancel(request->name()), response);
  });
}

grpc::Status TrainingService::PauseTrainingJob(grpc::ServerContext*,
                                               const v1::PauseTrainingJobRequest* request,
                                               v1::TrainingJob* response) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    return Assign(jobs_.Pause(request->name()), response);
  });
}

grpc::Status TrainingService::ResumeTrainingJob(grpc::ServerContext*,
                                                const v1::ResumeTrainingJobRequest* request,
                                                v1::TrainingJob* response) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    return Assign(jobs_.Resume(request->name()), response);
  });
}

grpc::Status TrainingService::FinishTrainingJob(grpc::ServerContext*,
                                                const v1::FinishTrainingJobRequest* request,
                                                v1::TrainingJob* response) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    return Assign(jobs_.Finish(request->name()), response);
  });
}

grpc::Status TrainingService::RetryTrainingJob(grpc::ServerContext*,
                                               const v1::RetryTrainingJobRequest* request,
                                               v1::TrainingJob* response) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    return Assign(jobs_.Retry(request->name()), response);
  });
}

grpc::Status TrainingService::GetTrainingJobLog(grpc::ServerContext*,
                                                const v1::GetTrainingJobLogRequest* request,
                                                v1::GetTrainingJobLogResponse* response) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    const auto lines = jobs_.Log(request->name(), request->line_count());
    if (!lines.ok()) return lines.status();
    response->mutable_lines()->Assign(lines->begin(), lines->end());
    return absl::OkStatus();
  });
}

grpc::Status TrainingService::DeleteTrainingJob(grpc::ServerContext*,
                                                const v1::DeleteTrainingJobRequest* request,
                                                google::protobuf::Empty*) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    return jobs_.Delete(request->name());
  });
}

grpc::Status TrainingService::EstimateTrainingJob(grpc::ServerContext* context,
                                                  const v1::EstimateTrainingJobRequest* request,
                                                  v1::EstimateTrainingJobResponse* response) {
  return Answer([&] {
    return Assign(jobs_.Estimate(*request, [&] { return context->IsCancelled(); }), response);
  });
}

grpc::Status TrainingService::DownloadPredictions(
    grpc::ServerContext*, const v1::DownloadPredictionsRequest* request,
    grpc::ServerWriter<v1::DownloadPredictionsResponse>* writer) {
  return Answer([&] {
    if (absl::Status status = CheckJobName(request->name()); !status.ok()) return status;
    return jobs_.ReadPredictions(request->name(), [&](int64_t size_bytes, std::string bytes) {
      v1::DownloadPredictionsResponse response;
      response.set_size_bytes(size_bytes);
      response.set_chunk(std::move(bytes));
      return writer->Write(response);
    });
  });
}

}  // namespace tasuki
