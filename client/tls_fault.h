// Why no TLS comes about. Private to client/. Thread-safe.
#pragma once

#include <string>

#include "client/client.h"

namespace tasuki::client {

// Connects to the server as `options` says and answers what stands in the way of TLS, as half a
// sentence for people ("the server's certificate has expired"). "" if nothing does, or nobody
// answers. gRPC's own error says only that a handshake failed. Takes seconds at most.
std::string TlsFault(const std::string& address, const ClientOptions& options);

}  // namespace tasuki::client
