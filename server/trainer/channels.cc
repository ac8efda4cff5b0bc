#include "server/trainer/channels.h"

#include <unistd.h>

#include <thread>

#include "google/protobuf/io/zero_copy_stream_impl.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

[[noreturn]] void EndWithoutServer() {
  spdlog::warn("The server is gone; ending at once. It goes on from the newest checkpoint.");
  _exit(kExitServerGone);  // nothing of this process is worth tidying up
}

void ReadCommands(int fd, StopSignal& stop) {
  google::protobuf::io::FileInputStream stream(fd);
  internal::TrainerCommand command;
  while (google::protobuf::util::ParseDelimitedFromZeroCopyStream(&command, &stream, nullptr)) {
    if (command.action() == internal::TrainerCommand::STOP) {
      spdlog::info("Told to write a checkpoint and stop.");
      RequestStop(stop, StopSignal::kStop);
    } else if (command.action() == internal::TrainerCommand::ABANDON) {
      spdlog::info("Told to stop without a checkpoint.");
      RequestStop(stop, StopSignal::kAbandon);
    } else if (command.action() == internal::TrainerCommand::FINISH) {
      spdlog::info("Told to end the training and publish the best so far.");
      RequestStop(stop, StopSignal::kFinish);
    }
    command.Clear();
  }
  EndWithoutServer();
}

}  // namespace

void ListenForCommands(int fd, StopSignal& stop) {
  std::thread([fd, &stop] { ReadCommands(fd, stop); }).detach();
}

void RequestStop(StopSignal& stop, StopSignal::Request request) {
  int before = stop.request.load();
  while (before < request && !stop.request.compare_exchange_weak(before, request)) {
  }
}

void WriteEvent(int fd, const internal::TrainerEvent& event) {
  if (!google::protobuf::util::SerializeDelimitedToFileDescriptor(event, fd)) EndWithoutServer();
}

}  // namespace tasuki
