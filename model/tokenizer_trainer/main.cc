// tasuki-tokenizer-trainer TEXTS MODEL --FLAG=VALUE…
//
// Trains a SentencePiece model: TEXTS is a file of texts, each ended by NUL, MODEL the file to
// write, the flags are SentencePiece's own. Exit code 0, or 1 with the reason on standard error.
//
// A program of its own for two reasons: Debian's library holds a Protocol Buffers of its own under
// the same symbols as the one that the others link, and it ends the process where texts are not to
// its liking. Ends with the process that started it.
#include <sentencepiece_trainer.h>
#include <signal.h>
#include <sys/prctl.h>

#include <fstream>
#include <iostream>
#include <string>
#include <unordered_map>

namespace {

class Texts : public sentencepiece::SentenceIterator {
 public:
  explicit Texts(const char* path) : file_(path, std::ios::binary) { Next(); }
  bool ok() const { return !file_.bad(); }
  bool done() const override { return done_; }
  void Next() override { done_ = !std::getline(file_, text_, '\0'); }
  const std::string& value() const override { return text_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::ifstream file_;
  std::string text_;
  bool done_ = false;
};

int Fail(const std::string& reason) {
  std::cerr << reason << std::endl;
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc < 3) return Fail("usage: tasuki-tokenizer-trainer TEXTS MODEL --FLAG=VALUE…");
  std::unordered_map<std::string, std::string> flags;
  for (int i = 3; i < argc; ++i) {
    const std::string flag = argv[i];
    const size_t equals = flag.find('=');
    if (flag.rfind("--", 0) != 0 || equals == flag.npos) return Fail("not a flag: " + flag);
    flags[flag.substr(2, equals - 2)] = flag.substr(equals + 1);
  }
  Texts texts(argv[1]);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(flags, &texts, &model);
  if (!status.ok()) return Fail(status.message());
  if (!texts.ok()) return Fail(std::string("cannot read ") + argv[1]);
  std::ofstream file(argv[2], std::ios::binary);
  file << model;
  file.close();
  return file ? 0 : Fail(std::string("cannot write ") + argv[2]);
}
