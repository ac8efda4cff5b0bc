// tasuki.v1.TrainingService.
#pragma once

#include "server/jobs/jobs.h"
#include "server/rpc/watch_hub.h"
#include "tasuki/v1/training.grpc.pb.h"

namespace tasuki {

// Synchronous but for WatchTrainingJob. Thread-safe.
class TrainingService final : public v1::TrainingService::WithCallbackMethod_WatchTrainingJob<
                                  v1::TrainingService::Service> {
 public:
  TrainingService(Jobs& jobs, JobTable& table, WatchHub& watchers);

  grpc::Status CreateTrainingJob(grpc::ServerContext* context,
                                 const v1::CreateTrainingJobRequest* request,
                                 v1::TrainingJob* response) override;
  grpc::Status GetTrainingJob(grpc::ServerContext* context,
                              const v1::GetTrainingJobRequest* request,
                              v1::TrainingJob* response) override;
  grpc::Status ListTrainingJobs(grpc::ServerContext* context,
                                const v1::ListTrainingJobsRequest* request,
                                v1::ListTrainingJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchTrainingJobResponse>* WatchTrainingJob(
      grpc::CallbackServerContext* context, const v1::WatchTrainingJobRequest* request) override;
  grpc::Status CancelTrainingJob(grpc::ServerContext* context,
                                 const v1::CancelTrainingJobRequest* request,
                                 v1::TrainingJob* response) override;
  grpc::Status PauseTrainingJob(grpc::ServerContext* context,
                                const v1::PauseTrainingJobRequest* request,
                                v1::TrainingJob* response) override;
  grpc::Status ResumeTrainingJob(grpc::ServerContext* context,
                                 const v1::ResumeTrainingJobRequest* request,
                                 v1::TrainingJob* response) override;
  grpc::Status FinishTrainingJob(grpc::ServerContext* context,
                                 const v1::FinishTrainingJobRequest* request,
                                 v1::TrainingJob* response) override;
  grpc::Status RetryTrainingJob(grpc::ServerContext* context,
                                const v1::RetryTrainingJobRequest* request,
                                v1::TrainingJob* response) override;
  grpc::Status GetTrainingJobLog(grpc::ServerContext* context,
                                 const v1::GetTrainingJobLogRequest* request,
                                 v1::GetTrainingJobLogResponse* response) override;
  grpc::Status DeleteTrainingJob(grpc::ServerContext* context,
                                 const v1::DeleteTrainingJobRequest* request,
                                 google::protobuf::Empty* response) override;
  grpc::Status EstimateTrainingJob(grpc::ServerContext* context,
                                   const v1::EstimateTrainingJobRequest* request,
                                   v1::EstimateTrainingJobResponse* response) override;
  grpc::Status DownloadPredictions(
      grpc::ServerContext* context, const v1::DownloadPredictionsRequest* request,
      grpc::ServerWriter<v1::DownloadPredictionsResponse>* writer) override;

 private:
  Jobs& jobs_;
  JobTable& table_;
  WatchHub& watchers_;
};

}  // namespace tasuki
