#include "server/rpc/access.h"

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "grpc/grpc.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

using grpc::experimental::InterceptionHookPoints;

constexpr size_t kMaxTokensFileBytes = 1 << 20;
// Ours have 50. Longer ones are not hashed: a header may be a megabyte long.
constexpr size_t kMaxTokenBytes = 512;
// Whose handler is gRPC's own, so that nothing asks before it runs.
constexpr absl::string_view kReflection = "/grpc.reflection.v1alpha.";

// The hash of the token that the call brings; "" without one, "-" for what can be none.
std::string TokenHash(const grpc::ServerContextBase& context) {
  const auto& metadata = context.client_metadata();
  const auto header = metadata.find("authorization");
  if (header == metadata.end()) return "";
  absl::string_view value(header->second.data(), header->second.size());
  constexpr absl::string_view kScheme = "bearer ";
  if (value.size() > kMaxTokenBytes || !absl::StartsWithIgnoreCase(value, kScheme)) return "-";
  return Sha256Of(absl::StripAsciiWhitespace(value.substr(kScheme.size())));
}

}  // namespace

std::string CallerOf(const grpc::ServerContextBase& context) {
  std::string hash = TokenHash(context);
  return hash.empty() ? context.peer() : hash;
}

// A call that may last. Made with the call and destroyed with it.
class Access::Stream : public grpc::experimental::Interceptor {
 public:
  Stream(Access& access, grpc::experimental::ServerRpcInfo& info, Roles allowed)
      : access_(access), info_(info), allowed_(allowed) {}

  ~Stream() override {
    {
      absl::MutexLock lock(&access_.mutex_);
      access_.streams_.erase(this);
    }
    if (call_ != nullptr) grpc_call_unref(call_);
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      hash_ = TokenHash(*info_.server_context());
      call_ = info_.server_context()->c_call();
      grpc_call_ref(call_);
      {
        absl::MutexLock lock(&access_.mutex_);
        access_.streams_.insert(this);
      }
      // From here on a change of the tokens finds this stream: who asks later sees the change.
      if (absl::StartsWith(info_.method(), kReflection)) {
        const absl::Status status = Decide(access_.CurrentTokens().get());
        if (!status.ok()) Cancel(call_, status);
      }
    }
    methods->Proceed();
  }

  absl::Status Decide(const Tokens* tokens) const {
    return access_.Decide(tokens, info_.method(), allowed_, hash_);
  }

  const char* method() const { return info_.method(); }
  grpc_call* call() const { return call_; }

  // What the handler does from now on no longer reaches the client. May run reactions.
  static void Cancel(grpc_call* call, const absl::Status& status) {
    grpc_call_cancel_with_status(call, static_cast<grpc_status_code>(status.code()),
                                 std::string(status.message()).c_str(), nullptr);
  }

 private:
  Access& access_;
  grpc::experimental::ServerRpcInfo& info_;
  const Roles allowed_;
  // Constant once it is among the streams.
  std::string hash_;
  grpc_call* call_ = nullptr;
};

class Access::Streams : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Streams(Access& access) : access_(access) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    if (info->type() == grpc::experimental::ServerRpcInfo::Type::UNARY) return nullptr;
    const Roles allowed = RolesOf(info->method());
    if (allowed == Roles::Everybody()) return nullptr;  // health
    return new Stream(access_, *info, allowed);
  }

 private:
  Access& access_;
};

absl::StatusOr<std::unique_ptr<Access>> Access::Open(Options options, Metrics& metrics) {
  std::unique_ptr<Access> access(new Access(std::move(options), metrics));
  if (absl::Status status = access->ReadTokens(); !status.ok()) return status;
  if (absl::Status status = access->ReadCertificates(); !status.ok()) return status;
  if (!access->options_.tokens_file.empty() || access->tls()) {
    access->thread_ = std::thread([self = access.get()] { self->ReadAgainUntilStopped(); });
  }
  return access;
}

Access::~Access() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<grpc::ServerCredentials> Access::Credentials() {
  return tls() ? certificates_->Credentials() : grpc::InsecureServerCredentials();
}

absl::Status Access::Check(absl::string_view method, Roles allowed,
                           const grpc::ServerContextBase& context) {
  return Decide(CurrentTokens().get(), method, allowed, TokenHash(context));
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
Access::StreamInterceptors() {
  return std::make_unique<Streams>(*this);
}

std::shared_ptr<const Tokens> Access::CurrentTokens() {
  absl::MutexLock lock(&mutex_);
  return tokens_;
}

absl::Status Access::Decide(const Tokens* tokens, absl::string_view method, Roles allowed,
                            absl::string_view token_sha256) {
  if (allowed == Roles::Everybody()) return absl::OkStatus();
  const auto denied = [&](absl::string_view why) {
    const std::vector<std::string> parts = absl::StrSplit(absl::StripPrefix(method, "/"), '/');
    const std::string& service = parts.front();
    const std::string& permission = parts.back();
    metrics_.CountRefusal(Metrics::Refusal::kRoleInsufficient);
    return MakeError(absl::StatusCode::kPermissionDenied, v1::ROLE_INSUFFICIENT,
                     absl::StrCat(why, " Permission '", permission, "' denied on resource '",
                                  service, "' (or it might not exist)."),
                     {{"permission", permission}, {"resource", service}});
  };
  if (allowed == Roles()) return denied("It is for no role.");
  if (tokens == nullptr) return absl::OkStatus();
  if (token_sha256.empty()) {
    metrics_.CountRefusal(Metrics::Refusal::kTokenMissing);
    return MakeError(absl::StatusCode::kUnauthenticated, v1::TOKEN_MISSING,
                     "This server wants a token with each call, as the metadata \"authorization: "
                     "Bearer TOKEN\"; the command tasuki takes it from --token-file or "
                     "TASUKI_TOKEN.");
  }
  const Tokens::Token* token = tokens->Find(token_sha256);
  if (token == nullptr) {
    metrics_.CountRefusal(Metrics::Refusal::kTokenInvalid);
    return MakeError(absl::StatusCode::kUnauthenticated, v1::TOKEN_INVALID,
                     "The token is not one of this server's; it may have been revoked.");
  }
  if (allowed.Has(token->role)) return absl::OkStatus();
  return denied(absl::StrCat("The token ", Quote(token->name), " has the role ",
                             NameOf(token->role), "; this is for ", allowed.ToString(), "."));
}

absl::Status Access::ReadTokens() {
  if (options_.tokens_file.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> text = ReadFile(options_.tokens_file, kMaxTokensFileBytes);
  if (text == tokens_text_) return absl::OkStatus();
  tokens_text_ = std::move(text);
  absl::StatusOr<Tokens> tokens =
      tokens_text_.ok() ? Tokens::Parse(*tokens_text_) : tokens_text_.status();
  metrics_.CountAccessReload(Metrics::AccessFile::kTokens, tokens.ok());
  if (!tokens.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--tokens_file ", options_.tokens_file, ": ", tokens.status().message()));
  }
  spdlog::info("{} tokens read from {}", tokens->size(), options_.tokens_file);
  if (tokens->size() == 0) spdlog::warn("without a token every call is refused");
  {
    absl::MutexLock lock(&mutex_);
    tokens_ = std::make_shared<const Tokens>(*std::move(tokens));
  }
  EndStreamsThatMayNot();
  return absl::OkStatus();
}

absl::Status Access::ReadCertificates() {
  if (options_.tls_certificate.empty()) return absl::OkStatus();
  absl::StatusOr<Certificates> read =
      Certificates::Read(options_.tls_certificate, options_.tls_key, options_.tls_client_ca);
  if (read == certificates_read_) return absl::OkStatus();
  certificates_read_ = read;
  metrics_.CountAccessReload(Metrics::AccessFile::kCertificates, read.ok());
  if (!read.ok()) return read.status();
  spdlog::info("TLS with the certificate in {}, which expires at {}{}", options_.tls_certificate,
               absl::FormatTime(read->expiry, absl::UTCTimeZone()),
               read->client_ca.empty() ? "" : "; clients need one, too");
  metrics_.SetCertificateExpiry(read->expiry);
  if (certificates_ == nullptr) {
    certificates_ = std::make_unique<CertificateSource>(*std::move(read));
  } else {
    certificates_->Set(*std::move(read));
  }
  return absl::OkStatus();
}

void Access::ReadAgainUntilStopped() {
  const auto stopped = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stop_; };
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopped), options_.read_every)) return;
    }
    for (const absl::Status& status : {ReadTokens(), ReadCertificates()}) {
      if (status.ok()) continue;
      spdlog::error("{}; what was read before stays in use", std::string(status.message()));
    }
  }
}

// A cancelled call may run reactions, and end, on this thread: so not under the lock.
void Access::EndStreamsThatMayNot() {
  std::vector<std::pair<grpc_call*, absl::Status>> refused;
  {
    absl::MutexLock lock(&mutex_);
    for (const Stream* stream : streams_) {
      absl::Status status = stream->Decide(tokens_.get());
      if (status.ok()) continue;
      spdlog::info("a call of {} is ended: {}", stream->method(), std::string(status.message()));
      grpc_call_ref(stream->call());
      refused.emplace_back(stream->call(), std::move(status));
    }
  }
  for (const auto& [call, status] : refused) {
    Stream::Cancel(call, status);
    grpc_call_unref(call);
  }
}

}  // namespace tasuki
