#include "client/connection.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "client/errors.h"
#include "client/tls_fault.h"

namespace tasuki {
namespace client {

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.clear_details();
  details.set_code(status.error_code());
  details.set_message(status.error_message());
  return StatusOf(details);
}

}  // namespace client

namespace {

// Between attempts, where the channel is connected with again sooner than they are due.
constexpr absl::Duration kLeastPause = absl::Milliseconds(200);
// A pause looks this often whether stop is requested.
constexpr absl::Duration kStopInterval = absl::Milliseconds(50);

grpc::ChannelArguments ChannelOptions() {
  grpc::ChannelArguments arguments;
  arguments.SetUserAgentPrefix("tasuki/" TASUKI_VERSION);
  arguments.SetMaxReceiveMessageSize(64 << 20);
  // Details of an error travel as metadata; the default of 8 KiB would drop long ones.
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, 64 << 10);
  // Attempts are spaced here; meanwhile the channel looks about once a second for a server.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Finds a peer that vanished during a quiet watch. Servers by default bear a ping in 5 minutes.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 6 * 60 * 1000);
  return arguments;
}

bool WorthRetrying(const absl::Status& status) {
  return absl::IsUnavailable(status) ||
         (absl::IsResourceExhausted(status) && RetryDelayOf(status).has_value());
}

}  // namespace

Client::Connection::Connection(const std::string& server_address, ClientOptions client_options,
                               const std::shared_ptr<grpc::ChannelCredentials>& credentials)
    : address(server_address),
      options(std::move(client_options)),
      channel(grpc::CreateCustomChannel(address, credentials, ChannelOptions())) {
  classification = v1::ClassificationService::NewStub(channel);
  datasets = v1::DatasetService::NewStub(channel);
  health = grpc::health::v1::Health::NewStub(channel);
  models = v1::ModelService::NewStub(channel);
  server = v1::ServerService::NewStub(channel);
  training = v1::TrainingService::NewStub(channel);
}

absl::Status Client::Connection::Call(absl::Duration timeout, Attempt attempt,
                                      bool repeatable) const {
  const absl::Time deadline = absl::Now() + timeout;
  absl::Duration backoff = options.first_backoff;
  for (int made = 1;; ++made) {
    const absl::Status status = Try(deadline, attempt);
    if (!WorthRetrying(status) || !repeatable || made >= options.max_attempts) return status;
    const absl::Duration wait = std::max(backoff, RetryDelayOf(status).value_or(backoff));
    // An attempt that could not begin before the deadline would hide why the call failed.
    if (absl::Now() + wait * 1.5 >= deadline) return status;
    if (!Wait(wait, deadline)) return absl::CancelledError("the call was stopped");
    backoff = std::min(backoff * 2, options.max_backoff);
  }
}

absl::Status Client::Connection::Delete(Attempt attempt) const {
  int made = 0;
  const absl::Status status = Call(options.timeout, [&](grpc::ClientContext& context) {
    ++made;
    return attempt(context);
  });
  return made > 1 && absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::Status Client::Connection::Try(absl::Time deadline, Attempt attempt) const {
  grpc::ClientContext context;
  if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
  if (!options.token.empty()) {
    context.AddMetadata("authorization", absl::StrCat("Bearer ", options.token));
  }
  const std::stop_callback cancel(options.stop, [&context] { context.TryCancel(); });
  absl::Status status = client::FromGrpcStatus(attempt(context));
  if (absl::IsCancelled(status)) {
    if (options.stop.stop_requested()) return absl::CancelledError("the call was stopped");
    // Nobody here cancels: it is gRPC's word for a call that came while the server was stopping.
    status = absl::UnavailableError("the server broke the call off");
  }
  if (absl::IsUnavailable(status) && ReasonOf(status) == v1::ERROR_REASON_UNSPECIFIED) {
    if (const std::string fault = client::TlsFault(address, options); !fault.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("no connection with the server at ", address, ": ", fault));
    }
    return Annotate(status, absl::StrCat("no Tasuki server answers at ", address, ": "));
  }
  return status;
}

bool Client::Connection::Wait(absl::Duration mean, absl::Time deadline) const {
  std::random_device random;
  const absl::Duration wait =
      std::min(mean * std::uniform_real_distribution(0.5, 1.5)(random), deadline - absl::Now());
  const absl::Time begin = absl::Now();
  bool away = false;
  // A channel tries to connect only as long as it is asked to, and comes on only while somebody
  // waits for it.
  while (!options.stop.stop_requested() && absl::Now() < begin + wait) {
    const grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
    if (state != GRPC_CHANNEL_READY) away = true;
    if (state == GRPC_CHANNEL_READY && away && absl::Now() >= begin + kLeastPause) break;
    channel->WaitForStateChange(
        state, absl::ToChronoTime(std::min(begin + wait, absl::Now() + kStopInterval)));
  }
  return !options.stop.stop_requested();
}

}  // namespace tasuki
