// Who may do what: TLS, tokens and roles of a listening server. Start here; roles.h has the table
// of methods, guarded_service.h is what asks Check before a request is looked at.
//
// The files are read again every second, and what changed holds for the next call, or connection.
// A file that cannot be taken leaves what was read before, a line in the log and a count in
// tasuki_access_reloads_total. No token is ever logged.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_interceptor.h"
#include "server/metrics/metrics.h"
#include "server/rpc/certificates.h"
#include "server/rpc/roles.h"
#include "server/rpc/tokens.h"

namespace tasuki {

// Who a call counts for when calls share what there is: the token it brings (of an application, on
// however many connections), or else its connection.
std::string CallerOf(const grpc::ServerContextBase& context);

// Thread-safe; must outlive the servers that use it.
class Access {
 public:
  struct Options {
    // Paths. Empty: nobody needs a token, and every caller may do everything.
    std::string tokens_file;
    // Empty: no TLS. `tls_client_ca` empty: clients need no certificate.
    std::string tls_certificate;
    std::string tls_key;
    std::string tls_client_ca;
    absl::Duration read_every = absl::Seconds(1);
  };

  // FAILED_PRECONDITION, naming the file, if one cannot be taken.
  static absl::StatusOr<std::unique_ptr<Access>> Open(Options options, Metrics& metrics);
  ~Access();

  bool tls() const { return certificates_ != nullptr; }
  // For the address to listen on. Called once.
  std::shared_ptr<grpc::ServerCredentials> Credentials();

  // Whether the caller may call `method`, which `allowed` may. UNAUTHENTICATED (TOKEN_MISSING,
  // TOKEN_INVALID), PERMISSION_DENIED (ROLE_INSUFFICIENT). Counts what it refuses.
  absl::Status Check(absl::string_view method, Roles allowed,
                     const grpc::ServerContextBase& context);

  // What ends streams whose token was revoked, and refuses reflection, which no GuardedService
  // serves. Given to a grpc::ServerBuilder.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> StreamInterceptors();

 private:
  class Stream;
  class Streams;

  Access(Options options, Metrics& metrics) : options_(std::move(options)), metrics_(metrics) {}

  // `tokens` null: nobody needs one. `token_sha256` is empty if the call had no token.
  absl::Status Decide(const Tokens* tokens, absl::string_view method, Roles allowed,
                      absl::string_view token_sha256);
  std::shared_ptr<const Tokens> CurrentTokens();

  // OK if what the files hold is in use, or was refused before. Otherwise what is wrong with it.
  absl::Status ReadTokens();
  absl::Status ReadCertificates();
  void ReadAgainUntilStopped();
  void EndStreamsThatMayNot();

  const Options options_;
  Metrics& metrics_;
  std::unique_ptr<CertificateSource> certificates_;  // null: no TLS

  // What reading brought last, good or not. Of the thread below, after Open.
  absl::StatusOr<std::string> tokens_text_ = absl::UnknownError("not read yet");
  absl::StatusOr<Certificates> certificates_read_ = absl::UnknownError("not read yet");

  absl::Mutex mutex_;
  std::shared_ptr<const Tokens> tokens_ ABSL_GUARDED_BY(mutex_);  // null: nobody needs one
  absl::flat_hash_set<Stream*> streams_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // none if there is nothing to read
};

}  // namespace tasuki
