// What a pass of a batch through the model took.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace tasuki {

struct Pass {
  // On a GPU, where encoder and decoder are one graph, `encode` is the time of both.
  absl::Duration encode, decode;
  int64_t padding_tokens = 0;  // input tokens that were computed and belong to no text
};

}  // namespace tasuki
