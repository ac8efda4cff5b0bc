// What our tokenizer makes of texts, for tests/oracles/tokens.py.
//
//   token_ids MODEL TEXTS             ids of each text on a line; code 1 and the reason if refused
//   token_ids --train TEXTS MODEL N   trains a model of N pieces, as pre-training does
//
// TEXTS is a file of texts, each ended by NUL.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "model/text/tokenizer.h"

namespace {

int Fail(const absl::Status& status) {
  std::cerr << status.message() << std::endl;
  return 1;
}

std::vector<std::string> ReadTexts(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::string> texts;
  for (std::string text; std::getline(file, text, '\0');) texts.push_back(text);
  return texts;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && argv[1] == std::string("--train")) {
    tasuki::TokenizerTraining options;
    options.vocabulary_size = std::atoi(argv[4]);
    const absl::Status status = tasuki::TrainTokenizer(ReadTexts(argv[2]), options, argv[3]);
    return status.ok() ? 0 : Fail(status);
  }
  if (argc != 3) return 2;
  const auto tokenizer = tasuki::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  for (const std::string& text : ReadTexts(argv[2])) {
    const auto ids = (*tokenizer)->Encode(text);
    if (!ids.ok()) return Fail(ids.status());
    for (const int32_t id : *ids) std::cout << id << ' ';
    std::cout << '\n';
  }
}
