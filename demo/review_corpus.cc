// review-corpus: writes the two Japanese review corpora of script/demo, made from templates here.
//
//   review-corpus --out DIR [--seed 12] [--rows 3200]
//
// counterfactual_{train,valid,test}.tsv   sentence, is_counterfactual (0 or 1, one in ten is 1)
// sentiment_{train,valid,test}.csv        text, label (negative, neutral, positive, a third each)
// texts.jsonl                             texts to pre-train on: those of both train files, and
// half
//                                         as many without a label
//
// What a row means follows from order and scope, not from a word: 「ていれば」, 「のに」,
// 「はずだ」 stand in rows of both classes, and praise is negated, conceded, reported, or said of
// another product. Test rows come from templates and fillers (products, actions, qualities) that no
// train row has; what they share with them is grammar. The rows without a label bring those fillers
// into texts.jsonl, in the templates of the train rows. Valid rows are new combinations of what
// train rows are made of. No text occurs twice. The same seed and number of rows give the same
// bytes on every machine.
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

namespace {

using Strings = std::vector<std::string>;

// ---- Fillers
// ------------------------------------------------------------------------------------- Verbs:
// stem|te-form|ba-form|stem of ない|dictionary form. Qualities: the good one|the bad one, both
// without the い of the adjective.
struct Fillers {
  Strings products, places, people, colors, days;
  Strings cares;          // what one does well to do
  Strings mistakes;       // what one does well not to do
  Strings gains, losses;  // what comes of it
  Strings events;         // what just happens
  Strings qualities;
};

const Fillers kTrainFillers = {
    .products = {"カメラ", "掃除機", "いす", "かばん", "時計", "毛布", "なべ", "炊飯器", "電話機",
                 "本棚", "靴", "包丁"},
    .places = {"台所", "居間", "会社", "学校", "庭"},
    .people = {"母", "弟", "友人", "店員", "隣の人"},
    .colors = {"黒", "白", "青", "茶色"},
    .days = {"昨日", "先週", "月曜日", "今朝", "三日前"},
    .cares = {"予備を買|って|えば|わ|う", "説明書を読|んで|めば|ま|む", "店で試|して|せば|さ|す",
              "口コミを調べ|て|れば||る", "大きさを測|って|れば|ら|る",
              "早めに注文|して|すれば|し|する", "別の色を選|んで|べば|ば|ぶ",
              "先に充電|して|すれば|し|する", "店員の話を聞|いて|けば|か|く",
              "ふたを閉め|て|れば||る", "写真を撮|って|れば|ら|る", "油を塗|って|れば|ら|る"},
    .mistakes = {"安い型を選|んで|べば|ば|ぶ", "箱を捨て|て|れば||る", "強く回|して|せば|さ|す",
                 "水に濡ら|して|せば|さ|す", "急いで決め|て|れば||る", "外に置|いて|けば|か|く"},
    .gains = {"長く使え|て|れば||る", "安く買え|て|れば||る", "時間が余|って|れば|ら|る",
              "仕事が進|んで|めば|ま|む", "家族が喜|んで|べば|ば|ぶ", "満足でき|て|れば||る"},
    .losses = {"損を|して|すれば|し|する", "手間がかか|って|れば|ら|る", "部品が割れ|て|れば||る",
               "失敗|して|すれば|し|する", "腰が痛くな|って|れば|ら|る",
               "時間を失|って|えば|わ|う"},
    .events = {"電話が鳴|って|れば|ら|る", "ふたが外れ|て|れば||る", "音が止ま|って|れば|ら|る",
               "雨が降|って|れば|ら|る"},
    .qualities = {"使いやす|使いにく", "持ちやす|持ちにく", "読みやす|読みにく",
                  "洗いやす|洗いにく", "運びやす|運びにく", "操作しやす|操作しづら",
                  "設定しやす|設定しづら", "選びやす|選びにく", "音が良|音が悪",
                  "座り心地が良|座り心地が悪", "手触りが良|手触りが悪", "使い勝手が良|使い勝手が悪",
                  "作りが良|作りが悪", "対応が良|対応が悪"}};

const Fillers kTestFillers = {
    .products = {"扇風機", "枕", "傘", "机", "財布", "自転車", "水筒", "加湿器", "手袋", "弁当箱"},
    .places = {"寝室", "玄関", "車の中", "図書館"},
    .people = {"父", "妹", "同僚", "近所の人"},
    .colors = {"赤", "緑", "灰色"},
    .days = {"一昨日", "先月", "金曜日", "昨夜"},
    .cares = {"保証を付け|て|れば||る", "在庫を確かめ|て|れば||る", "見本を取り寄せ|て|れば||る",
              "値段を比べ|て|れば||る", "布で拭|いて|けば|か|く", "ねじを締め|て|れば||る",
              "袋に包|んで|めば|ま|む", "部品を交換|して|すれば|し|する",
              "同僚に相談|して|すれば|し|する", "型番を写|して|せば|さ|す"},
    .mistakes = {"古い型を頼|んで|めば|ま|む", "袋を破|って|れば|ら|る", "角を落と|して|せば|さ|す",
                 "日に当て|て|れば||る", "説明を飛ば|して|せば|さ|す"},
    .gains = {"楽に運べ|て|れば||る", "すぐに直せ|て|れば||る", "荷物が減|って|れば|ら|る",
              "部屋が片付|いて|けば|か|く", "よく眠れ|て|れば||る"},
    .losses = {"迷惑を|して|すれば|し|する", "お金が減|って|れば|ら|る", "針が折れ|て|れば||る",
               "後悔|して|すれば|し|する", "肩が重くな|って|れば|ら|る"},
    .events = {"荷物が届|いて|けば|か|く", "電気が消え|て|れば||る", "客が来|て|れば||る"},
    .qualities = {"扱いやす|扱いにく", "握りやす|握りにく", "組み立てやす|組み立てにく",
                  "掃除しやす|掃除しづら", "収納しやす|収納しづら", "着けやす|着けにく",
                  "寝心地が良|寝心地が悪", "肌触りが良|肌触りが悪", "仕上がりが良|仕上がりが悪",
                  "香りが良|香りが悪"}};

// ---- Templates
// ----------------------------------------------------------------------------------- {name} is a
// filler or one of these lists; {slot.form} is a form of a verb (slots a b: cares, m: mistakes, g:
// gains, w: losses, x: events) or of a quality (e: of the text's polarity, o: of the other one). A
// slot keeps its filler within a sentence; the product {n} within a text.
using Lists = std::map<std::string, Strings, std::less<>>;

const Lists kShared = {
    // Endings of a past form: supposed or regretted. All of them also end plain statements.
    {"hyp", {"だろう", "はずだ", "かもしれない", "のに", "と思う"}},
    {"plain", {"だろう", "はずだ", "かもしれない", "と思う", ""}},
    {"sure", {"と思う", "と感じる", ""}},
    {"say", {"と感じた", "と思う", "と分かった", "という印象だ", ""}},
    // Sentences that say nothing of either task.
    {"U",
     {"{day}、{n}が届いた", "{n}の色は{color}だ", "{place}で使う{n}だ", "{p}も{n}を持っている",
      "{n}は{place}に置いた", "{day}、{n}を開けた"}},
};

const Lists kCounterfactualTrain = {
    {"C",
     {"{a.te}いれば、{g.ta}{hyp}", "{a.te}いれば、{w.nai}なかった{hyp}",
      "{a.te}いたら、{g.ta}{hyp}", "{p}も{a.te}いたら、{w.nai}なかった{hyp}",
      "{m.nai}なければ、{g.ta}{hyp}", "{p}が{m.nai}なければ、{w.nai}なかった{hyp}",
      "{m.nai}なかったら、{g.ta}{hyp}", "{m.nai}なかったら、{w.nai}なかった{hyp}",
      "{a.te}おけば、{g.ta}{hyp}", "{p}が{a.te}おけば、{w.nai}なかった{hyp}",
      "{a.ba}よかった{sure}", "{p}も{a.ba}よかったのに", "{m.nai}なければよかった{sure}",
      "{m.nai}なければよかったのに"}},
    {"F",
     {"{a.te}いれば、{g.dict}{plain}", "{a.te}いれば、{w.nai}ない{plain}",
      "{a.te}いたら、{g.dict}{plain}", "{p}も{a.te}いたら、{w.nai}ない{plain}",
      "{m.nai}なければ、{g.dict}{plain}", "{p}が{m.nai}なければ、{w.nai}ない{plain}",
      "{a.te}おけば、{g.dict}{plain}", "{p}が{a.te}おけば、{w.nai}ない{plain}",
      "{a.ta}ので、{g.ta}{hyp}", "{a.te}いたので、{g.ta}{hyp}",
      "{p}も{a.te}いたので、{w.nai}なかった{hyp}", "{m.nai}なかったので、{g.ta}{hyp}",
      "{p}が{m.nai}なかったので、{w.nai}なかった{hyp}", "{a.te}よかった{sure}",
      "{p}も{a.te}よかった{sure}", "{m.nai}なくてよかった{sure}", "{a.ba}よい{plain}",
      "いつ{a.ba}よいか、まだ分からない"}},
    {"positive", {"{C}。", "{C}。", "{U}。{C}。", "{C}。{U}。"}},
    {"negative", {"{F}。", "{F}。", "{U}。{F}。", "{F}。{U}。"}},
};

const Lists kCounterfactualTest = {
    {"C",
     {"{p}が{a.te}いれば、{g.ta}{hyp}", "{p}も{a.te}いれば、{w.nai}なかった{hyp}",
      "{p}が{a.te}いたら、{g.ta}{hyp}", "{p}も{m.nai}なければ、{g.ta}{hyp}",
      "{p}が{m.nai}なかったら、{w.nai}なかった{hyp}", "{p}も{a.te}おけば、{g.ta}{hyp}",
      "{n}は{a.ba}よかった{sure}", "{p}が{m.nai}なければよかったのに"}},
    {"F",
     {"{p}が{a.te}いれば、{g.dict}{plain}", "{p}も{a.te}いれば、{w.nai}ない{plain}",
      "{p}が{a.te}いたら、{g.dict}{plain}", "{p}も{m.nai}なければ、{g.dict}{plain}",
      "{p}も{a.te}おけば、{g.dict}{plain}", "{p}が{a.te}いたので、{g.ta}{hyp}",
      "{p}も{m.nai}なかったので、{g.ta}{hyp}", "{p}が{a.ta}ので、{w.nai}なかった{hyp}",
      "{n}は{a.te}よかった{sure}", "{p}も{m.nai}なくてよかった{sure}", "{n}は{a.ba}よい{plain}",
      "{p}もいつ{a.ba}よいか、まだ分からない"}},
    {"positive", {"{C}。", "{U}。{C}。", "{C}。{U}。{U}。"}},
    {"negative", {"{F}。", "{U}。{F}。", "{F}。{U}。{U}。"}},
};

// "same": the text's polarity is that of e. "none": it has none.
const Lists kSentimentTrain = {
    {"same",
     {"{n}は{e.i}{say}", "これは{e.i}{say}", "{o.i}が、{e.i}{say}", "{o.i}けれど、{n}は{e.i}{say}",
      "{n}は{o.ku}ない{say}", "{o.ku}ない{say}", "前の{n}は{o.i}が、これは{e.i}{say}",
      "前の{n}は{o.i}けれど、これは{o.ku}ない{say}", "前の{n}より{e.i}{say}",
      "前の{n}のほうが{o.i}{say}", "前の{n}のほうが{o.i}{say}", "{p}の{n}のほうが{o.i}{say}"}},
    {"none",
     {"{e.i}かどうかは、まだ分からない", "{e.ku}も{e.!ku}もない{say}",
      "{e.i}点も{o.i}点もあり、評価は半々だ", "{e.i}{n}がほしくて買った", "{e.i}かは人による{say}",
      "{e.i}と聞いて買ったが、まだ使っていない", "{U}。{U}"}},
    {"polar", {"{same}。", "{same}。", "{same}。", "{U}。{same}。", "{same}。{U}。"}},
    {"neutral", {"{none}。", "{none}。", "{none}。", "{U}。{none}。", "{none}。{U}。"}},
};

const Lists kSentimentTest = {
    {"same",
     {"{o.i}が、{n}は{e.i}{say}", "{o.i}けれど、これは{e.i}{say}", "これは{o.ku}ない{say}",
      "前の{n}は{o.i}けれど、これは{e.i}{say}", "前の{n}は{o.i}が、{n}は{o.ku}ない{say}",
      "{o.i}が、前の{n}より{e.i}{say}", "これより前の{n}のほうが{o.i}{say}",
      "前に{p}が買った{n}のほうが{o.i}{say}"}},
    {"none",
     {"{n}が{e.i}かどうかは、まだ分からない", "{n}は{e.ku}も{e.!ku}もない{say}",
      "{n}は{e.i}点も{o.i}点もあり、評価は半々だ", "{p}は{e.i}{n}がほしくて買った",
      "{n}が{e.i}かは人による{say}", "{n}は{e.i}と聞いて買ったが、まだ使っていない"}},
    {"polar", {"{same}。", "{U}。{same}。", "{same}。{U}。{U}。"}},
    {"neutral", {"{none}。", "{U}。{none}。", "{none}。{U}。{U}。"}},
};

// ---- Writing
// ------------------------------------------------------------------------------------- The
// distributions of <random> differ between libraries; this does not.
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

Strings Split(std::string_view text) {
  Strings parts(1);
  for (const char c : text) {
    if (c == '|') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
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
    for (const Lists* lists : {&templates_, &kShared}) {
      if (const auto found = lists->find(name); found != lists->end()) return &found->second;
    }
    const std::map<std::string_view, const Strings*> fillers = {{"place", &fillers_.places},
                                                                {"p", &fillers_.people},
                                                                {"color", &fillers_.colors},
                                                                {"day", &fillers_.days}};
    return fillers.at(name);
  }

  std::string Expand(std::string_view pattern) {
    std::map<char, Strings> slots;
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

  std::string Fill(std::string_view name, std::map<char, Strings>& slots) {
    if (name == "n") return product_;
    const size_t dot = name.find('.');
    if (dot == std::string_view::npos) return Expand(random_.Pick(*ListOf(name)));
    const char slot = name[0];
    if (slots.count(slot) == 0) slots[slot] = Split(Unused(FillersOf(slot)));
    return Form(slots[slot], slot, name.substr(dot + 1));
  }

  const Strings& FillersOf(char slot) const {
    switch (slot) {
      case 'm':
        return fillers_.mistakes;
      case 'g':
        return fillers_.gains;
      case 'w':
        return fillers_.losses;
      case 'x':
        return fillers_.events;
      case 'e':
      case 'o':
        return fillers_.qualities;
      default:
        return fillers_.cares;
    }
  }

  const std::string& Unused(const Strings& items) {
    while (true) {
      const std::string& item = random_.Pick(items);
      if (used_.size() >= items.size() || used_.insert(item).second) return item;
    }
  }

  std::string Form(const Strings& parts, char slot, std::string_view form) const {
    if (slot == 'e' || slot == 'o') {
      bool good = (slot == 'e') == positive_;
      if (form.front() == '!') good = !good;
      return parts[good ? 0 : 1] + (form.ends_with("ku") ? "く" : "い");
    }
    if (form == "te") return parts[0] + parts[1];
    if (form == "ba") return parts[0] + parts[2];
    if (form == "nai") return parts[0] + parts[3];
    if (form == "dict") return parts[0] + parts[4];
    std::string past = parts[0] + parts[1];  // て → た, で → だ: seven code points back
    past.back() = static_cast<char>(past.back() - 7);
    return past;
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
  std::vector<Label> cycle;  // row i gets label i modulo its size
  const Lists *train, *test;
};

const Label kFactual = {"0", "negative", true};

const std::array<Task, 2> kTasks = {Task{"counterfactual",
                                         ".tsv",
                                         "sentence\tis_counterfactual",
                                         '\t',
                                         {{"1", "positive", true},
                                          kFactual,
                                          kFactual,
                                          kFactual,
                                          kFactual,
                                          kFactual,
                                          kFactual,
                                          kFactual,
                                          kFactual,
                                          kFactual},
                                         &kCounterfactualTrain,
                                         &kCounterfactualTest},
                                    Task{"sentiment",
                                         ".csv",
                                         "text,label",
                                         ',',
                                         {{"negative", "polar", false},
                                          {"neutral", "neutral", false},
                                          {"positive", "polar", true},
                                          {"negative", "polar", false},
                                          {"neutral", "neutral", true},
                                          {"positive", "polar", true}},
                                         &kSentimentTrain,
                                         &kSentimentTest}};

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
    const std::vector<std::pair<std::string, std::vector<Row>>> splits = {
        {"train", MakeRows(task, *task.train, kTrainFillers, rows, random, seen)},
        {"valid", MakeRows(task, *task.train, kTrainFillers, rows / 8, random, seen)},
        {"test", MakeRows(task, *task.test, kTestFillers, rows / 4, random, seen)}};
    for (const auto& [split, split_rows] : splits) {
      const std::string name = task.name + "_" + split + task.extension;
      std::ofstream file = Create(out / name);
      file << task.header << '\n';
      for (const Row& row : split_rows) file << row.text << task.separator << row.label << '\n';
      Close(file, name);
    }
    for (const Row& row : splits[0].second) texts.push_back(row.text);
    for (const Row& row : MakeRows(task, *task.train, kTestFillers, rows / 2, random, seen)) {
      texts.push_back(row.text);
    }
  }
  Random random(seed);
  random.Shuffle(texts);
  std::ofstream file = Create(out / "texts.jsonl");
  for (const std::string& text : texts) file << "{\"text\":\"" << text << "\"}\n";
  Close(file, "texts.jsonl");
}

constexpr char kUsage[] = R"(usage: review-corpus --out DIR [--seed 12] [--rows 3200]
Writes the demo's Japanese review corpora to DIR: counterfactual_*.tsv, sentiment_*.csv, texts.jsonl.
  --out DIR   made if it is not there
  --seed N    everything random follows from it; default 12
  --rows N    train rows a task, 80 to 10,000; valid has an eighth of it, test a quarter; default 3200
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
  uint64_t seed = 12, rows = 3200;
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
  std::cout << "wrote " << rows << " train rows a task to " << out << "\n";
  return 0;
} catch (const std::invalid_argument& error) {
  std::cerr << "review-corpus: " << error.what() << "\n" << kUsage;
  return 2;
} catch (const std::exception& error) {
  std::cerr << "review-corpus: " << error.what() << "\n";
  return 1;
}
