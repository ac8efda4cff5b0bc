// Classifies the texts of its command line. The variables TASUKI_TLS_CA and TASUKI_TOKEN are those
// of the `tasuki` command.
#include <cstdlib>
#include <iostream>

#include "client/client.h"

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: classify-example HOST:PORT MODEL TEXT...\n"
                 "MODEL: reviews, models/reviews/versions/3 or models/reviews/aliases/production\n";
    return 2;
  }
  tasuki::ClientOptions options;
  if (const char* ca = std::getenv("TASUKI_TLS_CA")) options.tls_ca = ca;
  if (const char* token = std::getenv("TASUKI_TOKEN")) options.token = token;
  absl::StatusOr<tasuki::Client> client = tasuki::Client::Connect(argv[1], options);
  if (!client.ok()) return std::cerr << client.status().message() << '\n', 2;
  tasuki::v1::ClassifyRequest request;
  const std::string model = argv[2];
  request.set_model(model.starts_with("models/") ? model : "models/" + model);
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
