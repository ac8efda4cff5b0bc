#include "server/rpc/certificates.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpc/grpc.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using X509Pointer = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

Bio Reader(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Where OpenSSL would ask the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

X509Pointer FirstCertificate(const std::string& pem) {
  const Bio reader = Reader(pem);
  return X509Pointer(PEM_read_bio_X509(reader.get(), nullptr, NoPassword, nullptr));
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

absl::Status Fault(const std::string& file, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(file, " ", what));
}

absl::StatusOr<std::string> ReadText(const std::string& file) {
  absl::StatusOr<std::string> text = ReadFile(file, kMaxFileBytes);
  if (!text.ok()) return absl::FailedPreconditionError(text.status().message());
  return text;
}

// Who can read a key can be the server.
absl::Status CheckMode(const std::string& file) {
  struct stat status {};
  if (stat(file.c_str(), &status) != 0) return Fault(file, "cannot be looked at");
  const mode_t allowed = status.st_uid == 0 ? 0640 : 0600;
  if ((status.st_mode & 0777 & ~allowed) == 0) return absl::OkStatus();
  return Fault(file,
               absl::StrCat("holds a key and may be used by others (its mode is 0",
                            absl::Hex(status.st_mode >> 6 & 7), absl::Hex(status.st_mode >> 3 & 7),
                            absl::Hex(status.st_mode & 7), "); chmod 600 it"));
}

// The server's half of gRPC's TLS with certificates that it asks for; the C++ interface has no such
// credentials.
class FetchingCredentials final : public grpc::ServerCredentials {
 public:
  FetchingCredentials(grpc_ssl_client_certificate_request_type request,
                      grpc_ssl_server_certificate_config_callback fetch, void* source)
      : credentials_(grpc_ssl_server_credentials_create_with_options(
            grpc_ssl_server_credentials_create_options_using_config_fetcher(request, fetch,
                                                                            source))) {}
  ~FetchingCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* const credentials_;
};

absl::StatusOr<Certificates> ReadAndCheck(const std::string& certificate, const std::string& key,
                                          const std::string& client_ca) {
  Certificates read;
  const std::pair<const std::string&, std::string&> files[] = {
      {certificate, read.certificate}, {key, read.key}, {client_ca, read.client_ca}};
  for (const auto& [file, text] : files) {
    if (file.empty()) continue;  // no client_ca
    absl::StatusOr<std::string> content = ReadText(file);
    if (!content.ok()) return content.status();
    text = *std::move(content);
  }
  if (absl::Status status = CheckMode(key); !status.ok()) return status;

  const X509Pointer x509 = FirstCertificate(read.certificate);
  if (x509 == nullptr) return Fault(certificate, "holds no PEM certificate");
  const Bio key_reader = Reader(read.key);
  const Key private_key(PEM_read_bio_PrivateKey(key_reader.get(), nullptr, NoPassword, nullptr));
  if (private_key == nullptr) {
    return Fault(key, "holds no PEM private key, or one that needs a password");
  }
  if (X509_check_private_key(x509.get(), private_key.get()) != 1) {
    return Fault(key, absl::StrCat("is not the key of the certificate in ", certificate));
  }
  read.expiry = TimeOf(X509_get0_notAfter(x509.get()));
  if (read.expiry <= absl::Now()) {
    return Fault(certificate,
                 absl::StrCat("expired at ", absl::FormatTime(read.expiry, absl::UTCTimeZone())));
  }
  const absl::Time begin = TimeOf(X509_get0_notBefore(x509.get()));
  if (begin > absl::Now()) {
    return Fault(certificate, absl::StrCat("is not valid before ",
                                           absl::FormatTime(begin, absl::UTCTimeZone())));
  }
  if (!client_ca.empty() && FirstCertificate(read.client_ca) == nullptr) {
    return Fault(client_ca, "holds no PEM certificate");
  }
  return read;
}

}  // namespace

absl::StatusOr<Certificates> Certificates::Read(const std::string& certificate,
                                                const std::string& key,
                                                const std::string& client_ca) {
  absl::StatusOr<Certificates> read = ReadAndCheck(certificate, key, client_ca);
  ERR_clear_error();  // what is left there would be taken for a fault of this thread's next call
  return read;
}

void CertificateSource::Set(Certificates next) {
  absl::MutexLock lock(&mutex_);
  current_ = std::move(next);
  changed_ = true;
}

std::shared_ptr<grpc::ServerCredentials> CertificateSource::Credentials() {
  absl::MutexLock lock(&mutex_);
  return std::make_shared<FetchingCredentials>(
      current_.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                 : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
      &CertificateSource::Fetch, this);
}

grpc_ssl_certificate_config_reload_status CertificateSource::Fetch(
    void* source, grpc_ssl_server_certificate_config** config) {
  auto& self = *static_cast<CertificateSource*>(source);
  absl::MutexLock lock(&self.mutex_);
  if (!std::exchange(self.changed_, false)) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const grpc_ssl_pem_key_cert_pair pair = {self.current_.key.c_str(),
                                           self.current_.certificate.c_str()};
  // gRPC 1.51 wants roots for the certificates of clients even where it asks for none.
  const std::string& roots =
      self.current_.client_ca.empty() ? self.current_.certificate : self.current_.client_ca;
  *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

}  // namespace tasuki
