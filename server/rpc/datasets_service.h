// tasuki.v1.DatasetService.
#pragma once

#include "server/datasets/datasets.h"
#include "server/store/dataset_table.h"
#include "tasuki/v1/datasets.grpc.pb.h"

namespace tasuki {

// Synchronous. Thread-safe.
class DatasetsService final : public v1::DatasetService::Service {
 public:
  DatasetsService(Datasets& datasets, DatasetTable& table);

  grpc::Status UploadDataset(grpc::ServerContext* context,
                             grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                             v1::Dataset* response) override;
  grpc::Status CheckDataset(grpc::ServerContext* context,
                            grpc::ServerReader<v1::CheckDatasetRequest>* reader,
                            v1::CheckDatasetResponse* response) override;
  grpc::Status GetDataset(grpc::ServerContext* context, const v1::GetDatasetRequest* request,
                          v1::Dataset* response) override;
  grpc::Status ListDatasets(grpc::ServerContext* context, const v1::ListDatasetsRequest* request,
                            v1::ListDatasetsResponse* response) override;
  grpc::Status InspectDataset(grpc::ServerContext* context,
                              const v1::InspectDatasetRequest* request,
                              v1::InspectDatasetResponse* response) override;
  grpc::Status DeleteDataset(grpc::ServerContext* context, const v1::DeleteDatasetRequest* request,
                             google::protobuf::Empty* response) override;

 private:
  Datasets& datasets_;
  DatasetTable& table_;
};

}  // namespace tasuki
