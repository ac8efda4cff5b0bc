// Pages of listings: sizes and tokens. Private to server/store.
//
// A listing is walked by the key of its last row, so that rows may come and go between two pages.
#pragma once

#include <soci/soci.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/store/store.h"

namespace tasuki {

// Where a page begins and how long it may be.
struct PageStart {
  size_t size = 0;
  std::string key;  // of the last row of the page before; empty for the first page
  // The key as a number, in listings that count down; the largest there is for the first page.
  long long before() const;
};

// From a request's fields. `listing` names the listing with its filters. INVALID_ARGUMENT:
// FIELD_INVALID for a negative size, PAGE_TOKEN_INVALID for a token of no or of another listing.
absl::StatusOr<PageStart> StartOfPage(absl::string_view listing, int page_size,
                                      absl::string_view page_token);

// The token of the page after the row with `key`.
std::string MakePageToken(absl::string_view listing, absl::string_view key);

// The page in `rows`, which were asked for with one more than the page's size, so as to tell
// whether there is another page. Column 0 is the key as text; `read(row)` makes a T of the row.
template <typename T, typename Read>
Page<T> CutPage(absl::string_view listing, const PageStart& start, soci::rowset<soci::row>& rows,
                Read read) {
  Page<T> page;
  std::string last;
  for (const soci::row& row : rows) {
    if (page.rows.size() == start.size) {
      page.next_page_token = MakePageToken(listing, last);
      break;
    }
    last = row.get<std::string>(0);
    page.rows.push_back(read(row));
  }
  return page;
}

}  // namespace tasuki
