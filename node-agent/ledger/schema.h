// The ledger's tables, and how an older file becomes the newest one.
//
// Threading: called once, by Ledger::Open, before anyone else has the connection.
// Errors: kDataLoss when the file is a database of something else or is damaged; kFailedPrecondition when a newer
// version of this program made it.
#pragma once

#include <string>

#include "common/status/status.h"
#include "node-agent/ledger/sqlite.h"

namespace heterok8s::ledger {

// `path` is for the error's text.
absl::Status PrepareSchema(Database& db, const std::string& path);

}  // namespace heterok8s::ledger
