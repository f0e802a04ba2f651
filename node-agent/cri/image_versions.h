// Whether two runtimes mean the same image by one name.
//
// Purpose: ids of images differ between architectures. What a registry calls an image ("repository@sha256:…", which is
// the index of all architectures) does not, and both runtimes keep it with what they pulled.
// Threading: pure functions. Errors: none; what cannot be told may be the same.
//
//   if (!MaySame(VersionsOf(on_host, name), VersionsOf(on_dpu, name))) …   // pull it there
#pragma once

#include <map>
#include <string>

#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

// Digest to the name with it. Several: the registry's index has changed and this architecture's part of it has not.
using ImageVersions = std::map<std::string, std::string>;

// Those that are of the very repository in `name` ("nginx:1", of "docker.io/library/nginx"), by whose owner alone the
// name may be led to another image. Another repository with the same image for this architecture has its owner's for
// the others. None for an image that came from a file.
ImageVersions VersionsOf(const runtime::v1::Image& image, const std::string& name);

// They have one in common, or one of the two is not known.
bool MaySame(const ImageVersions& one, const ImageVersions& other);

}  // namespace heterok8s::cri
