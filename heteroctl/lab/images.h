// Container images for a lab: archives made by deploy/images/build, imported into the containerd of each PU.
//
// Threading: any. Errors: kNotFound when there are no archives, with what makes them; what `ctr` said.
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::lab {

// The *.tar in `folder`; empty `folder`: HETEROK8S_IMAGES, or .build/images in this folder or one above it.
absl::StatusOr<std::vector<std::string>> FindImages(const std::string& folder);

// Imports the archives, one after the other, into the namespace that CRI uses.
absl::Status ImportImages(const std::string& containerd_socket, const std::vector<std::string>& archives);

}  // namespace heterok8s::lab
