// Every path name under the server's data directory. Uploads and imports name what they make in
// aside/ themselves; tasuki-trainer, which is told a job's directory, knows what lies in it.
//
//   tasuki.db                      the store (SQLite)
//   lock                           held by the running server
//   datasets/{id}.jsonl            canonical rows
//   models/{model}/{version}/      model directories
//   jobs/{id}/                     spec.json, lock, log, checkpoints/, comparison/, result/,
//                                  predictions.jsonl
//   aside/                         what is being made; emptied at start
#pragma once

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "model/recipe/version_name.h"

namespace tasuki {

// Immutable; thread-safe. Names are resource names ("datasets/d-1f…").
class DataDirectory {
 public:
  // `root` is absolute.
  explicit DataDirectory(std::string root) : root_(std::move(root)) {}
  const std::string& root() const { return root_; }
  std::string database() const { return root_ + "/tasuki.db"; }
  std::string lock() const { return root_ + "/lock"; }
  std::string aside() const { return root_ + "/aside"; }
  // The directory of the one estimate; like that of a job.
  std::string estimate() const { return aside() + "/estimate"; }
  std::string datasets() const { return root_ + "/datasets"; }
  std::string dataset(absl::string_view name) const {
    return absl::StrCat(datasets(), "/", absl::StripPrefix(name, "datasets/"), ".jsonl");
  }
  std::string models() const { return root_ + "/models"; }
  // REQUIRES: the name of a version.
  std::string model_version(absl::string_view name) const {
    const VersionName version = VersionName::Parse(name).value();
    return absl::StrCat(root_, "/", version.model, "/", version.version);
  }
  std::string jobs() const { return root_ + "/jobs"; }
  std::string job(absl::string_view name) const {
    return absl::StrCat(jobs(), "/", absl::StripPrefix(name, "trainingJobs/"));
  }
  std::string job_spec(absl::string_view name) const { return spec_in(job(name)); }
  std::string job_log(absl::string_view name) const { return log_in(job(name)); }
  // The directory of the evaluation of an alias' version; like that of a job.
  std::string job_comparison(absl::string_view name) const { return job(name) + "/comparison"; }
  std::string job_predictions(absl::string_view name) const {
    return job(name) + "/predictions.jsonl";
  }
  std::string job_result(absl::string_view name) const { return job(name) + "/result"; }
  // Of a directory that is like that of a job.
  static std::string spec_in(absl::string_view directory) {
    return absl::StrCat(directory, "/spec.json");
  }
  static std::string log_in(absl::string_view directory) { return absl::StrCat(directory, "/log"); }

 private:
  std::string root_;
};

}  // namespace tasuki
