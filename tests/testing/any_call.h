// Calls of any method of any service, known by its path only.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tasuki {

struct AnyAnswer {
  grpc::Status status;
  std::vector<std::string> messages;  // the first only

  // The reason in the status's ErrorInfo, or "".
  std::string Reason() const {
    google::rpc::Status details;
    google::rpc::ErrorInfo info;
    details.ParseFromString(status.error_details());
    for (const auto& detail : details.details()) {
      if (detail.UnpackTo(&info)) return info.reason();
    }
    return "";
  }
};

// Sends `request` (the bytes of one message) and reads one answer; cancels what would go on.
inline AnyAnswer CallAny(const std::shared_ptr<grpc::Channel>& channel, const std::string& path,
                         const std::string& token = "", const std::string& request = "") {
  AnyAnswer answer;
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
  grpc::CompletionQueue queue;
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub.PrepareCall(&context, path, &queue);
  call->StartCall(nullptr);
  if (wait()) {
    const grpc::Slice slice(request);
    call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    wait();
    grpc::ByteBuffer bytes;
    call->Read(&bytes, nullptr);
    if (wait()) {
      grpc::Slice all;
      if (bytes.DumpToSingleSlice(&all).ok()) {
        answer.messages.emplace_back(reinterpret_cast<const char*>(all.begin()), all.size());
      }
      call->Read(&bytes, nullptr);
      void* tag = nullptr;
      bool ok = false;
      const auto soon = std::chrono::system_clock::now() + std::chrono::milliseconds(300);
      if (queue.AsyncNext(&tag, &ok, soon) == grpc::CompletionQueue::TIMEOUT) {
        context.TryCancel();  // a stream that stays open
        wait();
      }
    }
  }
  call->Finish(&answer.status, nullptr);
  wait();
  return answer;
}

inline constexpr char kReflectionPath[] =
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

// The paths of all methods of all services that a server has, as its reflection tells.
inline std::vector<std::string> MethodsOfServer(const std::shared_ptr<grpc::Channel>& channel,
                                                const std::string& token = "") {
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  google::protobuf::DynamicMessageFactory factory;
  const auto make = [&](const char* name) {
    return std::unique_ptr<google::protobuf::Message>(
        factory
            .GetPrototype(
                pool->FindMessageTypeByName(absl::StrCat("grpc.reflection.v1alpha.", name)))
            ->New());
  };
  const auto request = make("ServerReflectionRequest");
  const auto* list = request->GetDescriptor()->FindFieldByName("list_services");
  request->GetReflection()->SetString(request.get(), list, "*");
  const AnyAnswer answer = CallAny(channel, kReflectionPath, token, request->SerializeAsString());
  std::vector<std::string> methods;
  if (answer.messages.empty()) return methods;
  const auto response = make("ServerReflectionResponse");
  response->ParseFromString(answer.messages[0]);
  const auto field = [](const google::protobuf::Message& message, const char* name) {
    return message.GetDescriptor()->FindFieldByName(name);
  };
  const auto& services = response->GetReflection()->GetMessage(
      *response, field(*response, "list_services_response"), &factory);
  const auto* all = field(services, "service");
  for (int i = 0; i < services.GetReflection()->FieldSize(services, all); ++i) {
    const auto& service = services.GetReflection()->GetRepeatedMessage(services, all, i);
    const std::string name = service.GetReflection()->GetString(service, field(service, "name"));
    const auto* descriptor = pool->FindServiceByName(name);
    if (descriptor == nullptr) {
      methods.push_back(absl::StrCat("/", name, "/has no descriptor"));
      continue;
    }
    for (int j = 0; j < descriptor->method_count(); ++j) {
      methods.push_back(absl::StrCat("/", name, "/", descriptor->method(j)->name()));
    }
  }
  return methods;
}

}  // namespace tasuki
