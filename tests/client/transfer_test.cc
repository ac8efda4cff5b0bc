#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "client/client.h"
#include "client/errors.h"
#include "client/sha256.h"
#include "tests/client/fake_server.h"

namespace tasuki {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Client ConnectTo(const FakeServer& server) {
  ClientOptions options;
  options.first_backoff = absl::Milliseconds(1);
  return *Client::Connect(server.address(), options);
}

grpc::Status Unavailable() { return {grpc::StatusCode::UNAVAILABLE, "gone"}; }

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string Read(const std::string& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}

std::string HashOf(const std::string& bytes) {
  client::Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

// Bytes without a pattern that would hide swapped chunks.
std::string ManyBytes(size_t size) {
  std::string bytes(size, '\0');
  uint32_t state = 1;
  for (char& byte : bytes) byte = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

TEST(Sha256, AgreesWithThePublishedDigests) {
  EXPECT_EQ(HashOf(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(HashOf("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Upload, SendsEveryByteOnceWithTheirHash) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{262144}, size_t{1'000'003}}) {
    const std::string bytes = ManyBytes(size);
    FakeServer server;
    FakeServer::Received received;
    server.upload_dataset = [&](int, const FakeServer::Received& upload, v1::Dataset* answer) {
      received = upload;
      answer->set_name("datasets/d-1");
      return grpc::Status::OK;
    };
    ScratchDirectory scratch;
    Write(scratch / "rows.tsv", bytes);
    int64_t done = 0, total = 0;
    v1::UploadDatasetHeader header;
    header.set_display_name("rows");
    const auto dataset = ConnectTo(server).UploadDataset(UploadSource::File(scratch / "rows.tsv"),
                                                         header, [&](int64_t now, int64_t all) {
                                                           EXPECT_GT(now, done);
                                                           done = now;
                                                           total = all;
                                                         });
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    EXPECT_EQ(dataset->name(), "datasets/d-1");
    EXPECT_EQ(received.bytes, bytes);
    EXPECT_EQ(received.dataset.sha256(), HashOf(bytes));
    EXPECT_EQ(received.dataset.display_name(), "rows");
    EXPECT_LE(received.largest_chunk, 1 << 20);
    EXPECT_EQ(done, size);
    EXPECT_EQ(total, size);
  }
}

TEST(Upload, IsRepeatedFromTheBeginningIfTheSourceCanBeReadAgain) {
  FakeServer server;
  std::string bytes;
  server.upload_dataset = [&](int call, const FakeServer::Received& upload, v1::Dataset*) {
    bytes = upload.bytes;
    return call == 1 ? Unavailable() : grpc::Status::OK;
  };
  EXPECT_TRUE(ConnectTo(server).UploadDataset(UploadSource::Bytes("text\na\n"), {}).ok());
  EXPECT_EQ(bytes, "text\na\n");
}

TEST(Upload, OfAStreamIsNotRepeated) {
  FakeServer server;
  int calls = 0;
  server.upload_dataset = [&](int call, const FakeServer::Received& upload, v1::Dataset*) {
    calls = call;
    EXPECT_EQ(upload.bytes, "text\na\n");
    EXPECT_EQ(upload.dataset.sha256(), "");
    return Unavailable();
  };
  std::istringstream stream("text\na\n");
  EXPECT_TRUE(absl::IsUnavailable(
      ConnectTo(server).UploadDataset(UploadSource::Stream(stream), {}).status()));
  EXPECT_EQ(calls, 1);
}

TEST(Upload, NamesAFileThatCannotBeRead) {
  FakeServer server;
  ScratchDirectory scratch;
  Client client = ConnectTo(server);
  const auto missing = client.UploadDataset(UploadSource::File(scratch / "none.tsv"), {}).status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr("none.tsv"));
  EXPECT_TRUE(absl::IsInvalidArgument(
      client.UploadDataset(UploadSource::File(scratch.path()), {}).status()));
  // A pipe that nobody writes to would block for ever.
  ASSERT_EQ(mkfifo((scratch / "pipe").c_str(), 0600), 0);
  for (const std::string& path : {scratch / "pipe", std::string("/dev/zero")}) {
    const auto pipe = client.CheckDataset(UploadSource::File(path), {}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(pipe)) << pipe;
    EXPECT_THAT(std::string(pipe.message()), HasSubstr("is not a regular file"));
  }
}

TEST(Check, SendsTheSameBytesAsAnUpload) {
  FakeServer server;
  FakeServer::Received received;
  server.check_dataset = [&](int, const FakeServer::Received& upload,
                             v1::CheckDatasetResponse* answer) {
    received = upload;
    answer->set_bad_row_count(3);
    return grpc::Status::OK;
  };
  Client client = ConnectTo(server);
  const std::string bytes = ManyBytes(300'000);
  const auto answer = client.CheckDataset(UploadSource::Bytes(bytes), {});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->bad_row_count(), 3);
  EXPECT_EQ(received.bytes, bytes);
  EXPECT_EQ(received.dataset.sha256().size(), 64);
}

// ---- Models ----

void WriteModel(const ScratchDirectory& scratch) {
  Write(scratch / "config.json", "{}");
  Write(scratch / "model.safetensors", ManyBytes(300'000));
  Write(scratch / "spiece.model", "pieces");
  Write(scratch / "README.md", "not for the server");
  Write(scratch / "pytorch_model.bin", "never opened");
}

TEST(Import, SendsTheFilesOfAModelAndNoOthers) {
  FakeServer server;
  FakeServer::Received received;
  std::vector<std::string> request_ids;
  server.import_model = [&](int call, const FakeServer::Received& import, v1::ModelVersion*) {
    received = import;
    request_ids.push_back(import.model.request_id());
    return call == 1 ? Unavailable() : grpc::Status::OK;
  };
  ScratchDirectory scratch;
  WriteModel(scratch);
  const auto version = ConnectTo(server).ImportModelVersion("models/m", scratch.path());
  ASSERT_TRUE(version.ok()) << version.status();
  std::vector<std::string> names;
  std::string bytes;
  for (const auto& file : received.model.files()) {
    names.push_back(file.name());
    const std::string content = Read(scratch / file.name());
    EXPECT_EQ(file.sha256(), HashOf(content));
    EXPECT_EQ(file.size_bytes(), content.size());
    bytes += content;
  }
  EXPECT_THAT(names, ElementsAre("config.json", "model.safetensors", "spiece.model"));
  EXPECT_EQ(received.bytes, bytes);
  EXPECT_EQ(received.model.model(), "models/m");
  ASSERT_EQ(request_ids.size(), 2);
  EXPECT_EQ(request_ids[0], request_ids[1]);
}

TEST(Import, NamesWhatADirectoryLacks) {
  FakeServer server;
  for (const char* missing : {"config.json", "model.safetensors", "spiece.model"}) {
    ScratchDirectory scratch;
    WriteModel(scratch);
    fs::remove(scratch / "pytorch_model.bin");
    fs::remove(scratch / missing);
    const auto status = ConnectTo(server).ImportModelVersion("models/m", scratch.path()).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(std::string(status.message()), HasSubstr(missing));
  }
}

TEST(Import, NamesTheCommandThatConvertsAPickle) {
  FakeServer server;
  ScratchDirectory scratch;
  WriteModel(scratch);
  fs::remove(scratch / "model.safetensors");
  const auto status = ConnectTo(server).ImportModelVersion("models/m", scratch.path()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("python3 -m tasuki.convert " + scratch.path().string()));
}

// A server that exports these files; `declare` may lie about an entry.
void ExportFiles(
    FakeServer& server, const std::map<std::string, std::string>& files,
    const std::function<void(v1::ModelFile&)>& declare = [](auto&) {}) {
  server.get_version = [](int, const auto&, v1::ModelVersion*) { return grpc::Status::OK; };
  server.export_model = [=](int, auto& writer) {
    for (const auto& [name, bytes] : files) {
      v1::ExportModelVersionResponse part;
      part.mutable_file()->set_name(name);
      part.mutable_file()->set_size_bytes(static_cast<int64_t>(bytes.size()));
      part.mutable_file()->set_sha256(HashOf(bytes));
      declare(*part.mutable_file());
      writer.Write(part);
      for (size_t at = 0; at < bytes.size(); at += 1000) {
        part.set_chunk(bytes.substr(at, 1000));
        writer.Write(part);
      }
    }
    return grpc::Status::OK;
  };
}

TEST(Export, WritesEveryFileAndLeavesNothingBeside) {
  FakeServer server;
  const std::map<std::string, std::string> files = {{"config.json", "{}"},
                                                    {"empty", ""},
                                                    {"model.safetensors", ManyBytes(10'500)},
                                                    {"adapter/adapter_config.json", "{}"}};
  ExportFiles(server, files);
  ScratchDirectory scratch;
  const absl::Status status =
      ConnectTo(server).ExportModelVersion("models/m/versions/1", scratch / "a/out/");
  ASSERT_TRUE(status.ok()) << status;
  for (const auto& [name, bytes] : files) EXPECT_EQ(Read(scratch / ("a/out/" + name)), bytes);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch / "a"), {}), 1);
}

TEST(Export, KeepsNothingOfBytesThatAreNotThoseDeclared) {
  const std::function<void(v1::ModelFile&)> lies[] = {
      [](v1::ModelFile& file) { file.set_size_bytes(file.size_bytes() + 1); },
      [](v1::ModelFile& file) { file.set_sha256(HashOf("other")); },
      [](v1::ModelFile& file) { file.set_name("../escaped"); },
      [](v1::ModelFile& file) { file.set_name(".."); },
      [](v1::ModelFile& file) { file.set_name("adapter/../../escaped"); },
      [](v1::ModelFile& file) { file.set_name("/tmp/escaped"); },
  };
  for (const auto& lie : lies) {
    FakeServer server;
    ExportFiles(server, {{"config.json", "{}"}}, lie);
    int calls = 0;
    server.export_model = [&calls, all = server.export_model](int call, auto& writer) {
      calls = call;
      return all(call, writer);
    };
    ScratchDirectory scratch;
    const absl::Status status =
        ConnectTo(server).ExportModelVersion("models/m/versions/1", scratch / "out");
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_EQ(calls, 1) << "trying again would not help";
    EXPECT_TRUE(fs::is_empty(scratch.path()));
  }
}

TEST(Export, BeginsAnewAfterALostStream) {
  FakeServer server;
  ExportFiles(server, {{"config.json", "{}"}});
  server.export_model = [whole = server.export_model](int call, auto& writer) {
    if (call > 1) return whole(call, writer);
    v1::ExportModelVersionResponse part;
    part.mutable_file()->set_name("half");
    writer.Write(part);
    return Unavailable();
  };
  ScratchDirectory scratch;
  EXPECT_TRUE(ConnectTo(server).ExportModelVersion("models/m/versions/1", scratch / "out").ok());
  EXPECT_EQ(Read(scratch / "out/config.json"), "{}");
  EXPECT_FALSE(fs::exists(scratch / "out/half"));
}

TEST(Export, WritesIntoNoDirectoryThatHoldsAnything) {
  FakeServer server;
  ExportFiles(server, {{"config.json", "new"}});
  ScratchDirectory scratch;
  Write(scratch / "config.json", "old");
  EXPECT_TRUE(absl::IsAlreadyExists(
      ConnectTo(server).ExportModelVersion("models/m/versions/1", scratch.path())));
  EXPECT_EQ(Read(scratch / "config.json"), "old");
}

// Sends the predictions "1\n2\n" in two messages.
void SendPredictions(FakeServer& server, int64_t declared) {
  server.download_predictions = [=](int, const v1::DownloadPredictionsRequest& request,
                                    auto& writer) {
    EXPECT_EQ(request.name(), "trainingJobs/j");
    v1::DownloadPredictionsResponse part;
    part.set_size_bytes(declared);
    for (const char* chunk : {"1\n", "2\n"}) {
      part.set_chunk(chunk);
      writer.Write(part);
    }
    return grpc::Status::OK;
  };
}

TEST(Predictions, AreWrittenBesideAndRenamed) {
  FakeServer server;
  SendPredictions(server, 4);
  server.download_predictions = [whole = server.download_predictions](int call, const auto& request,
                                                                      auto& writer) {
    if (call > 1) return whole(call, request, writer);
    v1::DownloadPredictionsResponse part;
    part.set_chunk("half");
    writer.Write(part);
    return Unavailable();
  };
  ScratchDirectory scratch;
  Write(scratch / "out.jsonl", "old");
  int64_t last = 0;
  const absl::Status status = ConnectTo(server).DownloadPredictions(
      "trainingJobs/j", scratch / "out.jsonl", [&](int64_t done, int64_t) { last = done; });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Read(scratch / "out.jsonl"), "1\n2\n");
  EXPECT_EQ(last, 4);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 1);
}

TEST(Predictions, LeaveNothingWhereBytesAreMissingOrCannotBeWritten) {
  FakeServer server;
  SendPredictions(server, 5);
  ScratchDirectory scratch;
  EXPECT_TRUE(absl::IsDataLoss(
      ConnectTo(server).DownloadPredictions("trainingJobs/j", scratch / "out.jsonl")));
  EXPECT_TRUE(fs::is_empty(scratch.path()));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      ConnectTo(server).DownloadPredictions("trainingJobs/j", scratch / "none/out.jsonl")));
}

}  // namespace
}  // namespace tasuki
