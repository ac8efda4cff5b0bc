// review-corpus: writes the two Japanese review corpora of script/demo, made from demo/templates.h.
//
//   review-corpus --out DIR [--seed 34] [--rows 3600]
//
// counterfactual_{train,valid,test}.tsv   sentence, is_counterfactual (0 or 1, one in ten is 1)
// sentiment_{train,valid,test}.csv        text, label (negative, neutral, positive, a third each)
// texts.jsonl                             the texts of both train files, to pre-train on
//
// What a row means follows from order and scope, not from a word: conditions, past forms and their
// endings stand in rows of both classes, and praise is negated, conceded, reported, or said of
// another product. What test rows state, they state in patterns and of fillers (products, actions,
// qualities) that no train row and no pre-training text has; what they share with them is grammar
// and the patterns of the sentences that state nothing. Valid rows are new combinations of what
// train rows are made of. No text occurs twice. The same seed and number of
// rows give the same bytes on every machine.
#include <array>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "demo/templates.h"

namespace {

using demo::Fillers;
using demo::Lists;
using demo::Strings;

// The distributions of <random> differ between libraries; this does not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  size_t Below(size_t count) { return engine_() % count; }
  template <class T>
  const T& Pick(const std::vector<T>& items) {
    return items[Below(items.size())];
  }
  template <class T>
  void Shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[Below(i)]);
  }

 private:
  std::mt19937_64 engine_;
};

// A form of a verb, which is written as demo/templates.h says: te, ta, ba (before よい), nai
// (before ない) or dict.
std::string Conjugate(const std::string& verb, std::string_view form) {
  struct Endings {
    std::string_view dict, te, ba, nai;
  };
  static constexpr std::array<Endings, 10> kEndings = {{{"-る", "て", "れば", ""},
                                                        {"する", "して", "すれば", "し"},
                                                        {"う", "って", "えば", "わ"},
                                                        {"つ", "って", "てば", "た"},
                                                        {"る", "って", "れば", "ら"},
                                                        {"む", "んで", "めば", "ま"},
                                                        {"ぶ", "んで", "べば", "ば"},
                                                        {"く", "いて", "けば", "か"},
                                                        {"ぐ", "いで", "げば", "が"},
                                                        {"す", "して", "せば", "さ"}}};
  for (const Endings& endings : kEndings) {
    if (!verb.ends_with(endings.dict)) continue;
    const std::string stem = verb.substr(0, verb.size() - endings.dict.size());
    if (form == "dict") return stem + (endings.dict == "-る" ? "る" : std::string(endings.dict));
    if (form == "ba") return stem + std::string(endings.ba);
    if (form == "nai") return stem + std::string(endings.nai);
    std::string text = stem + std::string(endings.te);
    if (form == "te") return text;
    text.back() = static_cast<char>(text.back() - 7);  // て → た, で → だ: seven code points back
    return text;
  }
  throw std::logic_error("cannot conjugate " + verb);
}

// The good or the bad adjective of a pair like 音が(良い|悪い), ending in い, or in く for "ku";
// "!ku" is that of the other.
std::string Adjective(const std::string& pair, bool good, std::string_view form) {
  if (form.front() == '!') good = !good;
  const size_t open = pair.find('('), bar = pair.find('|'), close = pair.find(')');
  const size_t begin = good ? open + 1 : bar + 1;
  std::string text = pair.substr(0, open) + pair.substr(begin, (good ? bar : close) - begin);
  if (form.ends_with("ku")) text.replace(text.size() - 3, 3, "く");
  return text;
}

// Turns templates into texts.
class Writer {
 public:
  Writer(const Fillers& fillers, const Lists& templates, Random& random)
      : fillers_(fillers), templates_(templates), random_(random) {}

  // One text from the template list `name`. `positive`: the polarity of quality slot e.
  std::string Text(std::string_view name, bool positive) {
    product_ = random_.Pick(fillers_.products);
    used_.clear();
    positive_ = positive;
    return Expand(random_.Pick(*ListOf(name)));
  }

 private:
  const Strings* ListOf(std::string_view name) const {
    for (const Lists* lists : {&templates_, &demo::kShared}) {
      if (const auto found = lists->find(name); found != lists->end()) return &found->second;
    }
    const std::map<std::string_view, const Strings*> fillers = {{"place", &fillers_.places},
                                                                {"p", &fillers_.people},
                                                                {"color", &fillers_.colors},
                                                                {"day", &fillers_.days}};
    return fillers.at(name);
  }

  std::string Expand(std::string_view pattern) {
    std::map<char, std::string> slots;
    std::string text;
    while (!pattern.empty()) {
      const size_t open = pattern.find('{');
      text += pattern.substr(0, open);
      if (open == std::string_view::npos) break;
      const size_t close = pattern.find('}', open);
      text += Fill(pattern.substr(open + 1, close - open - 1), slots);
      pattern.remove_prefix(close + 1);
    }
    return text;
  }

  std::string Fill(std::string_view name, std::map<char, std::string>& slots) {
    if (name == "n") return product_;
    const size_t dot = name.find('.');
    if (dot == std::string_view::npos) return Expand(random_.Pick(*ListOf(name)));
    const char slot = name[0];
    if (slots.count(slot) == 0) slots[slot] = Unused(FillersOf(slot));
    const std::string_view form = name.substr(dot + 1);
    return IsQuality(slot) ? Adjective(slots[slot], (slot != 'o') == positive_, form)
                           : Conjugate(slots[slot], form);
  }

  static bool IsQuality(char slot) { return slot == 'e' || slot == 'd' || slot == 'o'; }

  const Strings& FillersOf(char slot) const {
    switch (slot) {
      case 'm':
        return fillers_.mistakes;
      case 'g':
        return fillers_.gains;
      case 'w':
        return fillers_.losses;
      case 'a':
        return fillers_.cares;
      default:
        return fillers_.qualities;
    }
  }

  const std::string& Unused(const Strings& items) {
    while (true) {
      const std::string& item = random_.Pick(items);
      if (used_.size() >= items.size() || used_.insert(item).second) return item;
    }
  }

  const Fillers& fillers_;
  const Lists& templates_;
  Random& random_;
  std::string product_;
  std::set<std::string> used_;  // fillers in this text
  bool positive_ = true;
};

struct Row {
  std::string text, label;
};

// A row of class `name` is a text from the template list `list`, with `positive` as in
// Writer::Text.
struct Label {
  std::string name, list;
  bool positive;
};

struct Task {
  std::string name, extension, header;
  char separator;
  size_t factor;             // train rows, in units of --rows
  std::vector<Label> cycle;  // row i gets label i modulo its size
  const Lists *train, *test;
};

const Label kFactual = {"0", "negative", true};

const std::array<Task, 2> kTasks = {Task{.name = "counterfactual",
                                         .extension = ".tsv",
                                         .header = "sentence\tis_counterfactual",
                                         .separator = '\t',
                                         .factor = 2,  // one row in ten is positive
                                         .cycle = {{"1", "positive", true},
                                                   kFactual,
                                                   kFactual,
                                                   kFactual,
                                                   kFactual,
                                                   kFactual,
                                                   kFactual,
                                                   kFactual,
                                                   kFactual,
                                                   kFactual},
                                         .train = &demo::kCounterfactualTrain,
                                         .test = &demo::kCounterfactualTest},
                                    Task{.name = "sentiment",
                                         .extension = ".csv",
                                         .header = "text,label",
                                         .separator = ',',
                                         .factor = 1,
                                         .cycle = {{"negative", "polar", false},
                                                   {"neutral", "neutral", false},
                                                   {"positive", "polar", true},
                                                   {"negative", "polar", false},
                                                   {"neutral", "neutral", true},
                                                   {"positive", "polar", true}},
                                         .train = &demo::kSentimentTrain,
                                         .test = &demo::kSentimentTest}};

// `count` rows whose texts are not in `seen`, which gets them.
std::vector<Row> MakeRows(const Task& task, const Lists& templates, const Fillers& fillers,
                          size_t count, Random& random, std::set<std::string>& seen) {
  Writer writer(fillers, templates, random);
  std::vector<Row> rows;
  for (size_t tries = 0; rows.size() < count; ++tries) {
    if (tries > 100 * count) throw std::runtime_error("so many different rows cannot be made");
    const Label& label = task.cycle[rows.size() % task.cycle.size()];
    std::string text = writer.Text(label.list, label.positive);
    if (seen.insert(text).second) rows.push_back({std::move(text), label.name});
  }
  random.Shuffle(rows);
  return rows;
}

std::ofstream Create(const std::filesystem::path& path) {
  std::ofstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot write " + path.string());
  return file;
}

void Close(std::ofstream& file, const std::string& what) {
  file.close();
  if (!file) throw std::runtime_error("cannot write all of " + what);
}

void WriteCorpora(const std::filesystem::path& out, uint64_t seed, size_t rows) {
  std::filesystem::create_directories(out);
  Strings texts;
  for (const Task& task : kTasks) {
    Random random(seed * 2 + (&task - kTasks.data()));
    std::set<std::string> seen;
    const size_t count = rows * task.factor;
    const std::vector<std::pair<std::string, std::vector<Row>>> splits = {
        {"train", MakeRows(task, *task.train, demo::kTrainFillers, count, random, seen)},
        {"valid", MakeRows(task, *task.train, demo::kTrainFillers, count / 8, random, seen)},
        {"test", MakeRows(task, *task.test, demo::kTestFillers, count / 4, random, seen)}};
    for (const auto& [split, split_rows] : splits) {
      const std::string name = task.name + "_" + split + task.extension;
      std::ofstream file = Create(out / name);
      file << task.header << '\n';
      for (const Row& row : split_rows) file << row.text << task.separator << row.label << '\n';
      Close(file, name);
    }
    for (const Row& row : splits[0].second) texts.push_back(row.text);
  }
  Random random(seed);
  random.Shuffle(texts);
  std::ofstream file = Create(out / "texts.jsonl");
  for (const std::string& text : texts) file << "{\"text\":\"" << text << "\"}\n";
  Close(file, "texts.jsonl");
}

constexpr char kUsage[] = R"(usage: review-corpus --out DIR [--seed 34] [--rows 3600]
Writes the demo's Japanese review corpora to DIR: counterfactual_*.tsv, sentiment_*.csv, texts.jsonl.
  --out DIR   made if it is not there
  --seed N    everything random follows from it; default 34
  --rows N    train rows of sentiment, 80 to 10,000; counterfactual statements, of which one in ten
              is positive, have twice as many; valid has an eighth of train, test a quarter;
              default 3600
)";

uint64_t Number(const std::string& flag, std::string_view value, uint64_t low, uint64_t high) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || number < low || number > high) {
    throw std::invalid_argument(flag + " " + std::string(value) + " is not a number from " +
                                std::to_string(low) + " to " + std::to_string(high));
  }
  return number;
}

}  // namespace

int main(int argc, char** argv) try {
  std::string out;
  uint64_t seed = 34, rows = 3600;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      std::cout << kUsage;
      return 0;
    }
    if (flag != "--out" && flag != "--seed" && flag != "--rows") {
      throw std::invalid_argument("unknown flag " + flag);
    }
    if (i + 1 == argc) throw std::invalid_argument(flag + " needs a value");
    const std::string value = argv[i + 1];
    if (flag == "--out") out = value;
    if (flag == "--seed") seed = Number(flag, value, 0, 1'000'000'000);
    if (flag == "--rows") rows = Number(flag, value, 80, 10'000);
  }
  if (out.empty()) throw std::invalid_argument("--out DIR is missing");
  WriteCorpora(out, seed, rows);
  std::cout << "wrote " << rows << " and " << 2 * rows << " train rows to " << out << "\n";
  return 0;
} catch (const std::invalid_argument& error) {
  std::cerr << "review-corpus: " << error.what() << "\n" << kUsage;
  return 2;
} catch (const std::exception& error) {
  std::cerr << "review-corpus: " << error.what() << "\n";
  return 1;
}
