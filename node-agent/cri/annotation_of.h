// What an object of a runtime says of itself in its annotations.
//
// Threading: pure.
//
//   if (AnnotationOf(sandbox.annotations(), kTwin) == "true") …
#pragma once

#include <google/protobuf/map.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "node-agent/cri/annotations.h"
#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

// Empty when it is not there.
inline std::string AnnotationOf(const google::protobuf::Map<std::string, std::string>& annotations, const char* key) {
  auto found = annotations.find(key);
  return found == annotations.end() ? "" : found->second;
}

inline uint64_t EpochOf(const runtime::v1::Container& container) {
  return std::strtoull(AnnotationOf(container.annotations(), kEpoch).c_str(), nullptr, 10);
}

}  // namespace heterok8s::cri
