// The file that a job's trainers print to: their standard output and error, all attempts in a row.
// Pure functions on a path; any thread, also while a trainer writes.
#pragma once

#include <string>
#include <vector>

namespace tasuki {

// The last `count` lines, oldest first, without line ends; none if there is no such file. Looks at
// the last MiB and at the first 4 KiB of a line; bytes that are not UTF-8 become U+FFFD: so the
// lines fit into a message.
std::vector<std::string> LastLogLines(const std::string& path, int count);

}  // namespace tasuki
