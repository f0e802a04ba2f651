// The YAML documents of one file.
//
// Purpose: yaml-cpp 0.7's LoadAll() goes on forever, taking memory, over a document that it neither takes nor refuses,
// as one that begins with a comma. This one refuses it. Threading: pure. Errors: throws YAML::Exception with the line.
//
//   for (const YAML::Node& document : LoadDocuments(text)) …
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>
#include <vector>

namespace heterok8s::manifest {

std::vector<YAML::Node> LoadDocuments(const std::string& text);

}  // namespace heterok8s::manifest
