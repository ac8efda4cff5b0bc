// T5's pre-training task (Raffel et al. 2020, section 3.1.4): spans of a text are replaced by
// sentinels, and the model writes the spans.
//
//   tokens   a b c d e f g h
//   input    a b <extra_id_0> e f <extra_id_1> h </s>
//   target   <extra_id_0> c d <extra_id_1> g </s>
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/text/tokenizer.h"
#include "model/training/random.h"

namespace tasuki {

struct SpanCorruption {
  double noise_density = 0.15;  // share of the tokens that is taken out
  double mean_span_tokens = 3;
};

struct CorruptedText {
  std::vector<int32_t> input;   // with </s>
  std::vector<int32_t> target;  // with </s>
};

// Corrupts one segment. Two corrupted spans never touch; otherwise every way of placing them is
// equally likely. (T5's own code begins every text with a kept span and ends it with a corrupted
// one; in short texts, which have one span, that would be the end of the text always.)
// REQUIRES: two tokens or more.
CorruptedText CorruptSpans(absl::Span<const int32_t> tokens, const SpanCorruption& corruption,
                           const Tokenizer& tokenizer, Random& random);

}  // namespace tasuki
