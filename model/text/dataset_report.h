// What all rows of datasets show: token lengths, rows that come twice, labels that contradict each
// other, texts that several splits have.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "model/text/tokenizer.h"
#include "tasuki/v1/datasets.pb.h"

namespace tasuki {

// Rows of all datasets of a report together; each takes some 30 bytes of memory.
inline constexpr int64_t kMaxReportedRows = 4'000'000;

struct ReportedDataset {
  v1::Dataset dataset;
  std::string path;  // of its canonical file
};

struct ReportOptions {
  const Tokenizer* tokenizer = nullptr;  // null: no token lengths
  std::string prefix;                    // before every text
  int max_input_tokens = 512;
};

// Fills `reports` and `overlaps` of `response`. Reads each file once; blocks for as long. Texts are
// the same if their 64-bit hashes are: among four million different ones, one in two million such
// reports shows a pair too many. INVALID_ARGUMENT, LIMIT_EXCEEDED; errors of ReadExamples.
absl::Status ReportOn(const std::vector<ReportedDataset>& datasets, const ReportOptions& options,
                      v1::InspectDatasetResponse& response);

}  // namespace tasuki
