// Opens a stranger's model directory in a process of its own, `tasuki-trainer --check DIR`, so that
// no file can bring the server down.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tasuki {

// Answers the number of weights. INVALID_ARGUMENT, MODEL_INVALID with what the process printed,
// also if it died or took longer than `limit`; UNAVAILABLE if it could not be started; CANCELLED
// soon after `cancelled` (may be empty) answers true, the process being killed. Blocks; any thread.
absl::StatusOr<int64_t> CheckInChildProcess(const std::string& trainer_path,
                                            const std::string& directory,
                                            const std::function<bool()>& cancelled,
                                            absl::Duration limit = absl::Minutes(10));

}  // namespace tasuki
