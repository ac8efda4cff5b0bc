#include "server/rpc/datasets_service.h"

#include "model/errors/errors.h"
#include "server/rpc/names.h"
#include "server/rpc/status.h"

namespace tasuki {
namespace {

absl::Status HeaderFault(absl::string_view description) {
  Faults faults;
  faults.Add("header", description);
  return faults.ToStatus();
}

// Reads a header and the bytes after it into the stream that `begin` makes of the header.
template <typename Request, typename Begin, typename Response>
absl::Status Receive(grpc::ServerContext& context, grpc::ServerReader<Request>& reader, Begin begin,
                     Response* response) {
  Request message;
  if (!reader.Read(&message) || !message.has_header()) {
    return HeaderFault("is missing: it is the first message of the stream");
  }
  auto stream = begin(message.header());
  if (!stream.ok()) return stream.status();
  while (reader.Read(&message)) {
    if (message.has_header()) return HeaderFault("came twice");
    if (absl::Status status = (*stream)->Append(message.chunk()); !status.ok()) return status;
  }
  // A stream that broke off looks like one that ended.
  if (context.IsCancelled()) return absl::CancelledError("The client went away.");
  return Assign((*stream)->Finish(), response);
}

}  // namespace

DatasetsService::DatasetsService(Datasets& datasets, DatasetTable& table)
    : datasets_(datasets), table_(table) {}

grpc::Status DatasetsService::UploadDataset(grpc::ServerContext* context,
                                            grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                                            v1::Dataset* response) {
  return Answer([&] {
    const auto begin = [&](const auto& header) { return datasets_.Begin(header); };
    return Receive(*context, *reader, begin, response);
  });
}

grpc::Status DatasetsService::CheckDataset(grpc::ServerContext* context,
                                           grpc::ServerReader<v1::CheckDatasetRequest>* reader,
                                           v1::CheckDatasetResponse* response) {
  return Answer([&] {
    const auto begin = [&](const auto& header) { return datasets_.BeginCheck(header); };
    return Receive(*context, *reader, begin, response);
  });
}

grpc::Status DatasetsService::GetDataset(grpc::ServerContext*, const v1::GetDatasetRequest* request,
                                         v1::Dataset* response) {
  return Answer([&] {
    if (absl::Status status = CheckDatasetName(request->name()); !status.ok()) return status;
    return Assign(table_.Get(request->name()), response);
  });
}

grpc::Status DatasetsService::ListDatasets(grpc::ServerContext*,
                                           const v1::ListDatasetsRequest* request,
                                           v1::ListDatasetsResponse* response) {
  return Answer([&] {
    auto page = table_.List(request->page_size(), request->page_token());
    if (!page.ok()) return page.status();
    response->mutable_datasets()->Assign(page->rows.begin(), page->rows.end());
    response->set_next_page_token(page->next_page_token);
    return absl::OkStatus();
  });
}

grpc::Status DatasetsService::InspectDataset(grpc::ServerContext*,
                                             const v1::InspectDatasetRequest* request,
                                             v1::InspectDatasetResponse* response) {
  return Answer([&] {
    if (absl::Status status = CheckDatasetName(request->name()); !status.ok()) return status;
    for (const std::string& name : request->other_datasets()) {
      absl::Status status = CheckDatasetName(name, "other_datasets");
      if (!status.ok()) return status;
    }
    if (!request->model_version().empty()) {
      absl::Status status = CheckModelOrVersionName(request->model_version(), "model_version");
      if (!status.ok()) return status;
    }
    return Assign(datasets_.Inspect(*request), response);
  });
}

grpc::Status DatasetsService::DeleteDataset(grpc::ServerContext*,
                                            const v1::DeleteDatasetRequest* request,
                                            google::protobuf::Empty*) {
  return Answer([&] {
    if (absl::Status status = CheckDatasetName(request->name()); !status.ok()) return status;
    return datasets_.Delete(request->name());
  });
}

}  // namespace tasuki
