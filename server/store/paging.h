// Pages of listings: sizes and tokens. Private to server/store.
//
// A listing is walked by the key of its last row, so that rows may come and go between two pages.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tasuki {

// Rows a page, from a request's page_size; see Page.
absl::StatusOr<int> PageSize(int page_size);

// A token for the rows after `key`. `listing` names the listing with its filters; a token is of use
// for that listing only.
std::string MakePageToken(absl::string_view listing, absl::string_view key);

// The key in a token; INVALID_ARGUMENT, PAGE_TOKEN_INVALID.
absl::StatusOr<std::string> KeyOfPageToken(absl::string_view listing, absl::string_view token);

}  // namespace tasuki
