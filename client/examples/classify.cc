// Classifies the texts of its command line.
#include <iostream>

#include "client/client.h"

int main(int argc, char** argv) {
  if (argc < 4)
    return std::cerr << "usage: classify-example HOST:PORT models/MODEL[/versions/N] TEXT...\n", 2;
  absl::StatusOr<tasuki::Client> client = tasuki::Client::Connect(argv[1]);
  if (!client.ok()) return std::cerr << client.status().message() << '\n', 2;
  tasuki::v1::ClassifyRequest request;
  request.set_model(argv[2]);  // models/reviews, or models/reviews/versions/3
  for (int i = 3; i < argc; ++i) request.add_texts(argv[i]);
  const auto response = client->Classify(request);
  if (!response.ok()) return std::cerr << response.status().message() << '\n', 1;
  for (int i = 0; i < response->results_size(); ++i) {
    for (const auto& answer : response->results(i).predictions()) {
      std::cout << request.texts(i) << '\t' << answer.task() << '\t' << answer.label() << '\t'
                << answer.scores(0).probability() << '\n';
    }
  }
}
