// Container images for a lab: archives made by deploy/images/build, put into the containerd of each PU.
//
// An import is mostly waiting for the disk. So `build` also leaves a seed: the root folder of a containerd that has the
// images already. Its blobs and unpacked layers are hard-linked into a new containerd's root (containerd never writes
// to either again), its databases are copied. Archives that are not in the seed are imported by `ctr`.
//
// Threading: any. Errors: kNotFound when there are no archives, with what makes them; errno of the copy; ctr's words.
//
//   HK_ASSIGN_OR_RETURN(ImageSet images, FindImages(""));
//   HK_RETURN_IF_ERROR(PlantSeed(images, root));                 // before containerd starts
//   HK_RETURN_IF_ERROR(ImportArchives(socket, images.to_import));  // after
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::lab {

struct ImageSet {
  std::string seed;                    // folder; empty: there is none
  std::vector<std::string> to_import;  // archives that the seed does not have
  size_t count = 0;
};
// In `folder`; empty: HETEROK8S_IMAGES, or .build/images in this folder or one above it.
absl::StatusOr<ImageSet> FindImages(const std::string& folder);

// Makes `containerd_root` like the seed. It must be empty or missing.
absl::Status PlantSeed(const ImageSet& images, const std::string& containerd_root);

// One after the other, into the namespace that CRI uses.
absl::Status ImportArchives(const std::string& containerd_socket, const std::vector<std::string>& archives);

}  // namespace heterok8s::lab
