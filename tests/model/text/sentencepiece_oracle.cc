// sentencepiece_oracle MODEL TEXTS: what SentencePiece itself answers. TEXTS is a file of texts,
// each ended by NUL; prints the ids of each on a line. A program of its own because its library
// cannot share a process with ours.
#include <sentencepiece_processor.h>

#include <fstream>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  sentencepiece::SentencePieceProcessor processor;
  if (!processor.Load(argv[1]).ok()) return 1;
  std::ifstream texts(argv[2], std::ios::binary);
  for (std::string text; std::getline(texts, text, '\0');) {
    std::vector<int> ids;
    if (!processor.Encode(text, &ids).ok()) return 1;
    for (const int id : ids) std::cout << id << ' ';
    std::cout << '\n';
  }
}
