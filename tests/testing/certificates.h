// Certificates for tests, made on the spot: a root that signs, and what it signs.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tasuki {

class TestCa {
 public:
  struct Issued {
    std::string certificate;  // PEM
    std::string key;          // PEM
  };

  explicit TestCa(const std::string& name) : key_(EVP_EC_gen("P-256"), EVP_PKEY_free) {
    root_ = Make(name, key_.get(), absl::Now() - absl::Hours(1), absl::Now() + absl::Hours(1), "");
  }

  std::string pem() const { return Pem(root_.get()); }

  // For "localhost" and 127.0.0.1, as server and as client.
  Issued Issue(absl::Time not_after = absl::Now() + absl::Hours(1),
               absl::Time not_before = absl::Now() - absl::Hours(1),
               const std::string& names = "DNS:localhost,IP:127.0.0.1") const {
    const Key key(EVP_EC_gen("P-256"), EVP_PKEY_free);
    const Certificate certificate = Make("test", key.get(), not_before, not_after, names);
    const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
    PEM_write_bio_PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    return {Pem(certificate.get()), Text(bio.get())};
  }

 private:
  using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
  using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

  static std::string Text(BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    return std::string(data, size);
  }

  static std::string Pem(X509* certificate) {
    const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
    PEM_write_bio_X509(bio.get(), certificate);
    return Text(bio.get());
  }

  // Signed by the root, which signs itself. No `names`: a root.
  Certificate Make(const std::string& subject, EVP_PKEY* key, absl::Time not_before,
                   absl::Time not_after, const std::string& names) const {
    Certificate made(X509_new(), X509_free);
    X509* x509 = made.get();
    X509_set_version(x509, 2);
    uint32_t serial = 0;
    RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial));
    ASN1_INTEGER_set(X509_get_serialNumber(x509), serial);
    ASN1_TIME_set(X509_getm_notBefore(x509), absl::ToTimeT(not_before));
    ASN1_TIME_set(X509_getm_notAfter(x509), absl::ToTimeT(not_after));
    X509_set_pubkey(x509, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(subject.c_str()), -1, -1, 0);
    X509_set_issuer_name(x509, X509_get_subject_name(root_ != nullptr ? root_.get() : x509));
    Extend(x509, NID_basic_constraints, names.empty() ? "critical,CA:TRUE" : "CA:FALSE");
    if (!names.empty()) Extend(x509, NID_subject_alt_name, names);
    X509_sign(x509, key_.get(), EVP_sha256());
    return made;
  }

  static void Extend(X509* x509, int nid, const std::string& value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
    X509_add_ext(x509, extension, -1);
    X509_EXTENSION_free(extension);
  }

  const Key key_;
  Certificate root_{nullptr, X509_free};
};

}  // namespace tasuki
