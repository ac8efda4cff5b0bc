// What TLS needs: a certificate, its key, and who may sign the certificates of clients.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpc/grpc_security.h"
#include "grpcpp/security/server_credentials.h"

namespace tasuki {

// PEM texts that fit each other.
struct Certificates {
  std::string certificate;  // the server's, followed by those between it and the root
  std::string key;
  std::string client_ca;  // empty: clients need no certificate
  absl::Time expiry;      // of the server's certificate

  // Paths of files. What is read has been checked: the key is the certificate's, the certificate is
  // valid now, `client_ca` (may be empty) holds certificates, and nobody but the key's owner may
  // read the key (its group may, where the owner is root). FAILED_PRECONDITION, naming the file.
  static absl::StatusOr<Certificates> Read(const std::string& certificate, const std::string& key,
                                           const std::string& client_ca);
  bool operator==(const Certificates&) const = default;
};

// Hands each new connection the certificates that were set last. Thread-safe; must outlive the
// server that has its credentials.
//
// gRPC's own watcher of files (FileWatcherCertificateProvider in 1.51) takes whatever it reads: a
// certificate whose key has not been replaced yet would end all handshakes.
class CertificateSource {
 public:
  explicit CertificateSource(Certificates first) : current_(std::move(first)) {}
  void Set(Certificates next);
  // TLS 1.2 or newer. Called once.
  std::shared_ptr<grpc::ServerCredentials> Credentials();

 private:
  // gRPC's question before each handshake: has anything changed?
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* source, grpc_ssl_server_certificate_config** config);

  absl::Mutex mutex_;
  Certificates current_ ABSL_GUARDED_BY(mutex_);
  bool changed_ ABSL_GUARDED_BY(mutex_) = true;
};

}  // namespace tasuki
