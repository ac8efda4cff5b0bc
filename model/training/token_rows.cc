#include "model/training/token_rows.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

constexpr size_t kPieceTokens = size_t{1} << 20;  // 4 MiB
constexpr size_t kPieceBytes = kPieceTokens * sizeof(int32_t);
// Addresses only, not memory: 64 GiB, several times what the largest dataset can become.
constexpr size_t kMostTokens = size_t{1} << 34;
constexpr size_t kMostBytes = kMostTokens * sizeof(int32_t);

}  // namespace

TokenRows::~TokenRows() {
  if (tokens_ != nullptr) munmap(tokens_, kMostBytes);
  if (file_ >= 0) close(file_);
}

TokenRows& TokenRows::operator=(TokenRows&& other) noexcept {
  std::swap(directory_, other.directory_);
  std::swap(ends_, other.ends_);
  std::swap(count_, other.count_);
  std::swap(writable_, other.writable_);
  std::swap(tokens_, other.tokens_);
  std::swap(file_, other.file_);
  std::swap(status_, other.status_);
  return *this;
}

void TokenRows::Add(absl::Span<const int32_t> row) {
  for (absl::Span<const int32_t> rest = row; !rest.empty();) {
    if (status_.ok() && count_ == writable_) OpenNextPiece();
    if (!status_.ok()) return;
    const size_t taken = std::min(rest.size(), writable_ - count_);
    std::copy_n(rest.begin(), taken, tokens_ + count_);
    count_ += taken;
    rest.remove_prefix(taken);
  }
  if (status_.ok()) ends_.push_back(static_cast<int64_t>(count_));
}

void TokenRows::OpenNextPiece() {
  if (tokens_ == nullptr) {
    void* addresses =
        mmap(nullptr, kMostBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (addresses == MAP_FAILED) throw std::bad_alloc();
    tokens_ = static_cast<int32_t*>(addresses);
  } else {
    PutAway();
    if (!status_.ok()) return;
  }
  if (writable_ == kMostTokens) throw std::bad_alloc();
  if (mprotect(tokens_ + writable_, kPieceBytes, PROT_READ | PROT_WRITE) != 0) {
    throw std::bad_alloc();
  }
  writable_ += kPieceTokens;
}

// The last piece, which is full, into the file; the same addresses show it there from then on.
void TokenRows::PutAway() {
  if (file_ < 0 && !directory_.empty()) {
    file_ = open(directory_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    // Not every file system has files without names.
    if (file_ < 0) directory_.clear();
  }
  if (file_ < 0) return;
  const size_t begin = (writable_ - kPieceTokens) * sizeof(int32_t);
  char* const piece = reinterpret_cast<char*>(tokens_) + begin;
  for (size_t done = 0; done < kPieceBytes;) {
    const ssize_t written =
        pwrite(file_, piece + done, kPieceBytes - done, static_cast<off_t>(begin + done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      status_ = SystemError(errno, "write", absl::StrCat(directory_, ", tokens of a dataset"));
      return;
    }
    done += static_cast<size_t>(written);
  }
  if (mmap(piece, kPieceBytes, PROT_READ, MAP_SHARED | MAP_FIXED, file_,
           static_cast<off_t>(begin)) == MAP_FAILED) {
    throw std::bad_alloc();
  }
}

}  // namespace tasuki
