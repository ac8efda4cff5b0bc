#include "model/files/sha256.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/escaping.h"
#include "model/files/durable.h"

namespace tasuki {

struct Sha256::Context {
  EVP_MD_CTX* digest = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(digest); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  EVP_DigestInit_ex(context_->digest, EVP_sha256(), nullptr);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(absl::string_view bytes) {
  EVP_DigestUpdate(context_->digest, bytes.data(), bytes.size());
}

std::string Sha256::Finish() {
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(context_->digest, hash, &size);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash), size));
}

std::string Sha256Of(absl::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return SystemError(errno, "open", path);
  Sha256 hash;
  std::vector<char> piece(size_t{1} << 20);
  ssize_t got;
  while ((got = read(fd, piece.data(), piece.size())) != 0) {
    if (got > 0) {
      hash.Update(absl::string_view(piece.data(), got));
    } else if (errno != EINTR) {
      const absl::Status error = SystemError(errno, "read", path);
      close(fd);
      return error;
    }
  }
  close(fd);
  return hash.Finish();
}

}  // namespace tasuki
