// Removes a folder that somebody else filled.
//
// Purpose: `rm -r` of a tree whose author is not trusted: names, links and depth are his. It never follows a symbolic
// link, never leaves the folder, never enters another file system, and needs two descriptors however deep it goes.
// Threading: any thread; one call per tree. Ownership: none kept.
// Errors: kInvalidArgument when `name` is not one name or is a link; errno with parent and name, and what was not
// removed yet stays. Removing what is gone succeeds.
//
//   HK_RETURN_IF_ERROR(RemoveTree("/var/lib/heterok8s/pods", uid));
#pragma once

#include <string>

#include "common/status/status.h"

namespace heterok8s::sys {

// Removes the folder `name` in `parent`, which is trusted: links in its path are followed.
absl::Status RemoveTree(const std::string& parent, const std::string& name);

}  // namespace heterok8s::sys
