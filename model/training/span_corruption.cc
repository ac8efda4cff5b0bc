#include "model/training/span_corruption.h"

#include <algorithm>
#include <cmath>

namespace tasuki {
namespace {

// Lengths of `parts` non-empty parts of `total`, every composition equally likely: parts - 1 of the
// total - 1 gaps are chosen, one after the other (Knuth's algorithm S).
std::vector<int64_t> RandomParts(int64_t total, int64_t parts, Random& random) {
  std::vector<int64_t> lengths;
  int64_t cuts = parts - 1, length = 0;
  for (int64_t gaps = total - 1; gaps > 0; --gaps) {
    ++length;
    if (random.Below(gaps) < cuts) {
      lengths.push_back(length);
      length = 0;
      --cuts;
    }
  }
  lengths.push_back(length + 1);
  return lengths;
}

}  // namespace

CorruptedText CorruptSpans(absl::Span<const int32_t> tokens, const SpanCorruption& corruption,
                           const Tokenizer& tokenizer, Random& random) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  const int64_t noise =
      std::clamp<int64_t>(std::llround(count * corruption.noise_density), 1, count - 1);
  const int64_t most_spans = std::min<int64_t>({noise, count - noise, kSentinelCount});
  const int64_t spans =
      std::clamp<int64_t>(std::llround(noise / corruption.mean_span_tokens), 1, most_spans);
  const std::vector<int64_t> noise_lengths = RandomParts(noise, spans, random);
  std::vector<int64_t> kept_lengths = RandomParts(count - noise + 2, spans + 1, random);
  --kept_lengths.front();  // before the first and after the last span there may be nothing
  --kept_lengths.back();

  CorruptedText text;
  auto next = tokens.begin();
  for (int64_t span = 0; span < spans; ++span) {
    text.input.insert(text.input.end(), next, next + kept_lengths[span]);
    next += kept_lengths[span];
    text.input.push_back(tokenizer.sentinel_id(static_cast<int>(span)));
    text.target.push_back(tokenizer.sentinel_id(static_cast<int>(span)));
    text.target.insert(text.target.end(), next, next + noise_lengths[span]);
    next += noise_lengths[span];
  }
  text.input.insert(text.input.end(), next, tokens.end());
  text.input.push_back(tokenizer.eos_id());
  text.target.push_back(tokenizer.eos_id());
  return text;
}

}  // namespace tasuki
