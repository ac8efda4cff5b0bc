// From a request of CreateTrainingJob to a job that may be stored.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/store/data_directory.h"
#include "server/store/store.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Hash of what the request says: equal requests have equal digests, in this and every other
// process.
std::string DigestOf(const v1::CreateTrainingJobRequest& request);

// The job as it would be stored: QUEUED, named, every default filled in, the base's version
// resolved. INVALID_ARGUMENT with all faults at once; errors of the store. `trains_in_bf16`:
// whether this machine does.
absl::StatusOr<v1::TrainingJob> MakeJob(Store& store, const DataDirectory& data,
                                        bool trains_in_bf16,
                                        const v1::CreateTrainingJobRequest& request);

}  // namespace tasuki
