#include "client/tls_fault.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"

namespace tasuki::client {
namespace {

constexpr timeval kPatience = {2, 0};

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};

// Keeps SIGPIPE from the process: OpenSSL writes to sockets that the other side may have closed.
class NoBrokenPipe {
 public:
  NoBrokenPipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoBrokenPipe() {
    if (sigismember(&before_, SIGPIPE) == 1) return;
    const timespec now{};
    while (sigtimedwait(&pipe_, nullptr, &now) == SIGPIPE) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_, before_;
};

// A connected socket, or -1.
int ConnectTo(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return -1;
  const std::unique_ptr<addrinfo, Free<freeaddrinfo>> all(found);
  for (; found != nullptr; found = found->ai_next) {
    const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof(kPatience));  // of connect, too
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
    if (connect(fd, found->ai_addr, found->ai_addrlen) == 0) return fd;
    if (fd >= 0) close(fd);
  }
  return -1;
}

std::string OfServersCertificate(long result, const std::string& host, const std::string& ca) {
  switch (result) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return "the server's certificate has expired";
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return "the server's certificate is not valid yet";
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return absl::StrCat("the server's certificate is not for \"", host, "\"");
    default:
      return absl::StrCat("the server's certificate is not signed by the CA in ", ca, " (",
                          X509_verify_cert_error_string(result), ")");
  }
}

}  // namespace

std::string TlsFault(const std::string& address, const ClientOptions& options) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  const int fd = ConnectTo(host, address.substr(colon + 1));
  if (fd < 0) return "";

  const NoBrokenPipe no_broken_pipe;
  const std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>> context(SSL_CTX_new(TLS_client_method()));
  const std::unique_ptr<SSL, Free<SSL_free>> ssl([&] {
    if (!options.tls_ca.empty()) {
      SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
      SSL_CTX_load_verify_locations(context.get(), options.tls_ca.c_str(), nullptr);
    }
    if (!options.tls_certificate.empty()) {
      SSL_CTX_use_certificate_chain_file(context.get(), options.tls_certificate.c_str());
      SSL_CTX_use_PrivateKey_file(context.get(), options.tls_key.c_str(), SSL_FILETYPE_PEM);
    }
    return SSL_new(context.get());
  }());
  SSL_set_fd(ssl.get(), fd);
  const unsigned char kHttp2[] = {2, 'h', '2'};
  SSL_set_alpn_protos(ssl.get(), kHttp2, sizeof(kHttp2));
  in6_addr ip{};
  if (inet_pton(AF_INET, host.c_str(), &ip) == 1 || inet_pton(AF_INET6, host.c_str(), &ip) == 1) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), host.c_str());
  } else {
    SSL_set1_host(ssl.get(), host.c_str());
    SSL_set_tlsext_host_name(ssl.get(), host.c_str());
  }
  ERR_clear_error();
  std::string fault;
  const bool agreed = SSL_connect(ssl.get()) == 1;
  if (options.tls_ca.empty()) {
    if (agreed) fault = "the server wants TLS, and no CA was given";
  } else if (const long result = SSL_get_verify_result(ssl.get()); result != X509_V_OK) {
    fault = OfServersCertificate(result, host, options.tls_ca);
  } else if (!agreed) {
    if (ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_WRONG_VERSION_NUMBER) {
      fault = "the server does not speak TLS";
    } else if (const char* reason = ERR_reason_error_string(ERR_peek_last_error())) {
      fault = absl::StrCat("TLS cannot be agreed on (", reason, ")");
    }
  } else {
    // A server looks at the client's certificate after this side is done (TLS 1.3), and then hangs
    // up; otherwise it greets.
    char greeting = 0;
    if (SSL_read(ssl.get(), &greeting, 1) <= 0 && ERR_peek_last_error() != 0) {
      const X509* own = SSL_get_certificate(ssl.get());
      if (own == nullptr) {
        fault = "the server wants a certificate of the client";
      } else if (X509_cmp_current_time(X509_get0_notAfter(own)) < 0) {
        fault = "the certificate of this client has expired";
      } else {
        fault = "the server does not take the certificate of this client";
      }
    }
  }
  ERR_clear_error();
  close(fd);
  return fault;
}

}  // namespace tasuki::client
