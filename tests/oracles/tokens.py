#!/usr/bin/env python3
"""Compares the ids of our tokenizer with those of the SentencePiece library and of transformers.

usage: tokens.py --token-ids PROGRAM --data DIR --work DIR

PROGRAM is build/release/token_ids, DIR holds amcd_*.tsv and marc_ja.csv. Texts: every text of DIR and
the torture list below. Models: one that TrainTokenizer makes, and several that the sentencepiece
package trains with other options. Prints a line a model, and at last the rows compared and the number
of differences; exits with 1 if there is one.

Ours must equal SentencePiece and transformers' T5Tokenizer with legacy=True. Said apart:
- transformers splits texts like "</s>" or "<extra_id_0>" out as special tokens by default. A text of a
  user must never become one, so its split_special_tokens=True is what ours is compared with. The same
  holds where the sentinels are pieces of the model, which SentencePiece finds in texts: these rows of
  the torture list are only searched for control ids.
- With legacy=False transformers puts "<unk>" before every text and drops it from the answer. Its score
  changes the rounding of all sums after it, and with that the choice between segmentations of equal
  score ("・・・" as 1 + 2 or 2 + 1). Such rows are counted as `ties`; their scores must be equal. It
  also makes U+2581 in a text a space, and adds one before every text, those included that begin with
  a space or whose model adds none: `rewritten`.
"""
import argparse
import csv
import glob
import os
import subprocess
import sys

import sentencepiece
from transformers import T5Tokenizer
from transformers.utils import logging

logging.set_verbosity_error()

FLAGS = "\U0001F1EF\U0001F1F5\U0001F1FA\U0001F1F8"
TORTURE = [
    "", " ", "  ", "   ", "\t", "\n", "\r\n", "\u3000", "\u3000\u3000", " \u3000 ", "\u00a0", "\u2003\u2009",
    "a", " a", "a ", " a ", "  a  b  ", "a  b", "a\tb", "a\nb", "a\r\nb", "a\u3000b", "\u3000a\u3000", "a\u00a0b",
    # Emoji: skin tones, variation selectors, families and professions joined by ZWJ, flags, key caps, tags.
    "\U0001F600", "\U0001F44D\U0001F3FD", "\u2764\ufe0f", "\u2764\ufe0e", "\u2764", "\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466",
    "\U0001F469\U0001F3FE\u200d\U0001F4BB", "\U0001F3F3\ufe0f\u200d\U0001F308", FLAGS, FLAGS[:3], "1\ufe0f\u20e3", "#\ufe0f\u20e3",
    "\U0001F3F4\U000E0067\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F", "良い\U0001F60D\U0001F60D\U0001F60D商品", "\U0001F600" * 300,
    # Half-width kana with dakuten and handakuten, alone and out of place; full-width; compatibility forms.
    "ｶﾞｷﾞｸﾞｹﾞｺﾞ", "ﾊﾟﾋﾟﾌﾟﾍﾟﾎﾟ", "ｳﾞ", "ﾞ", "ﾟ", "ｱﾞ", "aﾞ", "ｶ ﾞ", "ﾞｶ", "ｶﾞﾟ", "ｽﾏｰﾄﾌｫﾝｶﾊﾞｰ", "か\u3099", "は\u309a", "\u3099", "か\u3099\u3099",
    "か゛", "が", "ヷ", "ワ\u3099", "ＡＢＣ１２３！？", "ａ　ｂ", "（株）", "㈱", "㍿", "㌔", "㎏", "①②③", "Ⅳ", "½", "ﬁ", "ﷺ", "Å", "A\u030a", "℃", "…", "‥", "～", "〜", "−", "－", "―", "ｰ", "ー", "¥", "￥", "＼",
    # Combining marks.
    "e\u0301", "\u0301e", "\u0301", "q\u0307\u0323", "q\u0323\u0307", "e" + "\u0301" * 500, "\u1100\u1161\u11a8", "각", "ก\u0e33", "\u0958", "o\u0332\u0332",
    # Control characters, zero width, bidirectional, soft hyphen, byte order mark, line separators.
    "".join(map(chr, range(1, 32))), "a\x01b", "a\x07b", "\x7f", "a\x7fb", "\x80\x85\x9f", "a\x85b", "a\u200bb", "\u200b", "a\u200cb", "a\u200db", "a\u2060b", "\ufeffa",
    "a\ufeffb", "a\u00adb", "\u202eabc\u202c", "\u2066abc\u2069", "a\u2028b\u2029c", "a\x0bb\x0cc", "\x1b[31mred\x1b[0m", "\u180e", "\u2800", "\u115f\u1160\u3164\uffa0",
    # What looks like a control piece, a byte or U+2581, but is text.
    "</s>", "<s>", "<pad>", "<unk>", "a</s>b", "</s></s>", " </s> ", "<unk><unk>", "x <unk> y", "<extra_id_0>", "<extra_id_99>", "<extra_id_100>", "<extra_id_0",
    "a <extra_id_0> b <extra_id_1> c", "▁<extra_id_0>", "<EXTRA_ID_0>", "＜extra_id_0＞", "<0x41>", "<0xE3><0x81><0x82>", "[CLS]", "<mask>", "<|endoftext|>", "良い</s>商品",
    "▁", "▁▁", "a▁b", "▁a", "a▁", " ▁ ", "a ▁ b", "▁ ▁", "_", "a_b",
    # Escapes of surrogates as they stand in JSON are plain text here; the ends of planes; what is no character.
    "\\ud83d\\ude00", "\\uD800", "\\udfff\\ud800", "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\uffff", "\ufdd0", "\U00010000", "\U0001ffff", "\U0010ffff", "\U000f0000", "𠮟る", "𩸽",
    # Bytes of other encodings that were read as Latin-1, and code points without sense.
    bytes(range(1, 256)).decode("latin-1"), "ã\x81\x82ã\x81\x84", "PK\x03\x04\x14\x08\x08", "\x89PNG\r\n\x1a\n\r", "".join(chr(1 + i * 7919 % 0xD7FF) for i in range(2000)),
    "".join(chr(0x10000 + i * 104729 % 0xFFFFF) for i in range(500)),
    # Long words and long runs.
    "x" * 10_000, "あ" * 10_000, "ab" * 5_000, "supercalifragilisticexpialidocious" * 100, " " * 5_000, "a " * 3_000, "\u3000" * 2_000, "https://example.com/" + "a/b?c=d&" * 300,
    "ｶﾞ" * 2_000, "ワロタ" + "w" * 3_000, "！" * 3_000, "1234567890" * 500,
    # Scripts from right to left and others.
    "שלום עולם", "مرحبا بالعالم", "مَرْحَبًا", "لا", "ﻻ", "abc שלום def", "नमस्ते", "สวัสดี", "မင်္ဂလာပါ", "Ελληνικά Σς", "İiIı", "ß ẞ", "Привет", "你好，世界。", "안녕하세요", "ꙮ", "𝒜𝓑𝕮", "🄰🅱", "ｶﾞ が ガ",
    "".join(map(chr, range(32, 127))), *map(chr, range(1, 128)), *(f"a{chr(i)}b" for i in range(1, 128)),
]
# More of the same kind: the rows above in each other's neighbourhood.
TORTURE += [a + b for a, b in zip(TORTURE[:140], reversed(TORTURE[40:180])) if len(a) + len(b) < 2_000]

VARIANTS = {
    # Options of the sentencepiece package beside those that every T5 has.
    "nfkc": dict(normalization_rule_name="nfkc"),
    "nmt_nfkc": dict(normalization_rule_name="nmt_nfkc"),
    "nmt_nfkc_cf": dict(normalization_rule_name="nmt_nfkc_cf"),
    "identity": dict(normalization_rule_name="identity"),
    "byte_fallback": dict(byte_fallback=True),
    "byte_fallback identity": dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
    "no dummy prefix": dict(add_dummy_prefix=False),
    "extra whitespace kept": dict(remove_extra_whitespaces=False),
    "user-defined symbols": dict(user_defined_symbols=["商品", "<sep>", "ｶﾞ", "😀", "  ", "</", "▁の"]),
    "split digits, no number split": dict(split_digits=True, split_by_number=False, split_by_unicode_script=False),
    "sentinels as pieces": dict(user_defined_symbols=[f"<extra_id_{i}>" for i in reversed(range(100))]),
    "<s> as piece 3": dict(bos_id=3),
}


def read_texts(directory):
    texts = {}
    for path in sorted(glob.glob(f"{directory}/amcd_*.tsv")):
        with open(path, encoding="utf-8", newline="") as file:
            texts.setdefault("AMCD", []).extend(row["sentence"] for row in csv.DictReader(file, delimiter="\t"))
    with open(f"{directory}/marc_ja.csv", encoding="utf-8", newline="") as file:
        texts["MARC"] = [row["text"] for row in csv.DictReader(file)]
    return texts


def write_texts(path, texts):
    with open(path, "wb") as file:
        for text in texts:
            file.write(text.encode() + b"\0")


def train(path, texts, **options):
    model = {"model_type": "unigram", "vocab_size": 4000, "character_coverage": 0.9995, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "pad_piece": "<pad>",
             "hard_vocab_limit": False, "num_threads": 2, "minloglevel": 2, "max_sentence_length": 4000}
    model.update(options)
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=file, **model)


def control_ids(ours, tokenizer, size):
    """Rows in which a control piece or a sentinel came out of a text."""
    forbidden = {i for i in range(size) if tokenizer.is_control(i)}
    forbidden |= {i for i in range(size) if tokenizer.id_to_piece(i).startswith("<extra_id_")}
    return sum(any(i in forbidden or i >= size for i in row) for row in ours)


def score(library, ids):
    return sum(library.get_score(i) for i in ids)


def compare(name, path, texts, program, work):
    """Rows compared, differences, and a line about them."""
    write_texts(f"{work}/texts", texts)
    printed = subprocess.run([program, path, f"{work}/texts"], check=True, capture_output=True, text=True).stdout
    ours = [list(map(int, line.split())) for line in printed.splitlines()]
    library = sentencepiece.SentencePieceProcessor(model_file=path)
    sp = library.encode(texts)
    leaked = control_ids(ours, library, library.get_piece_size())
    # Sentinels that are pieces: the library takes them from the text, ours must not.
    sentinels = library.piece_to_id("<extra_id_0>") != library.unk_id()
    if sentinels:
        texts, ours, sp = map(list, zip(*[row for row in zip(texts, ours, sp) if "<extra_id_" not in library.decode([i for i in row[2]])]))
    legacy, new = ([tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True)) for text in texts]
                   for tokenizer in (T5Tokenizer(vocab_file=path, legacy=legacy, extra_ids=0 if sentinels else 100) for legacy in (True, False)))
    assert len(ours) == len(sp) == len(legacy) == len(new) == len(texts)
    wrong = ties = rewritten = 0
    for text, a, b, c, d in zip(texts, ours, sp, legacy, new):
        differs = a != b or a != c
        if not differs and d != a:
            if "▁" in text or text != text.strip() or name == "no dummy prefix":
                rewritten += 1
            elif abs(score(library, a) - score(library, d)) < 1e-6 * len(a):
                ties += 1
            else:
                differs = True
        wrong += differs
        if differs and wrong <= 5:
            print(f"  differs: {text[:60]!r}\n    ours          {a[:20]}\n    sentencepiece {b[:20]}\n    legacy=True   {c[:20]}\n    legacy=False  {d[:20]}")
    print(f"{name}: {len(texts)} rows, {wrong} differ, {leaked} with a control id; with legacy=False {ties} ties, {rewritten} rewritten", flush=True)
    return len(texts), wrong + leaked


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--token-ids", "--data", "--work"):
        parser.add_argument(flag, required=True)
    arguments = parser.parse_args()
    program, work = arguments.token_ids, arguments.work
    os.makedirs(work, exist_ok=True)
    data = read_texts(arguments.data)
    texts = [text for rows in data.values() for text in rows] + TORTURE
    print(", ".join(f"{name} {len(rows)} rows" for name, rows in data.items()) + f", torture list {len(TORTURE)}")

    models = {"TrainTokenizer": f"{work}/ours.model"}
    write_texts(f"{work}/corpus", data["AMCD"] + data["MARC"])
    subprocess.run([program, "--train", f"{work}/corpus", models["TrainTokenizer"], "8000"], check=True)
    for number, (name, options) in enumerate(VARIANTS.items()):
        models[name] = f"{work}/variant-{number}.model"
        train(models[name], data["AMCD"][:1500] + data["MARC"][:1500], **options)
    rows = wrong = 0
    for name, path in models.items():
        compared, differences = compare(name, path, texts, program, work)
        rows, wrong = rows + compared, wrong + differences

    for kind in ("bpe", "char", "word"):
        train(f"{work}/other.model", data["AMCD"][:500], model_type=kind, vocab_size=3000)
        refused = subprocess.run([program, f"{work}/other.model", f"{work}/texts"], capture_output=True, text=True)
        said = refused.stderr.strip()
        print(f"{kind}: code {refused.returncode}, {said}")
        wrong += refused.returncode != 1 or "not a unigram model" not in said
    print(f"{rows} rows compared under {len(models)} models, {wrong} differences")
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main())
