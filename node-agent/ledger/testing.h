// A real ledger in a temporary folder, for the tests of those who keep their rows in it.
//
// Threading: as Ledger. Ownership: the folder goes with the object.
//
//   TempLedger temp;
//   REQUIRE_OK(ipam->Allocate(…));                    // temp.ledger()
//   temp.Reopen();                                    // as a restarted heterod finds it
#pragma once

#include <fmt/format.h>
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "node-agent/ledger/ledger.h"

namespace heterok8s::ledger {

class TempLedger {
 public:
  TempLedger() {
    // In memory where that is to be had: hundreds of syncs on a busy disk take minutes, and no test cuts the power.
    char memory[] = "/dev/shm/hkledgerXXXXXX", disk[] = "/tmp/hkledgerXXXXXX";
    const char* folder = mkdtemp(memory);
    if (folder == nullptr) folder = mkdtemp(disk);
    if (folder == nullptr) Fail("mkdtemp failed");
    folder_ = folder;
    Open();
  }
  ~TempLedger() {
    ledger_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  TempLedger(const TempLedger&) = delete;
  TempLedger& operator=(const TempLedger&) = delete;

  Ledger& ledger() { return *ledger_; }
  Ledger* operator->() { return ledger_.get(); }
  std::string path() const { return folder_ + "/ledger.db"; }
  const std::string& folder() const { return folder_; }

  void Reopen() {
    ledger_.reset();
    Open();
  }

 private:
  void Open() {
    absl::StatusOr<std::unique_ptr<Ledger>> opened = Ledger::Open(path());
    if (!opened.ok()) Fail(ToString(opened.status()));
    ledger_ = *std::move(opened);
  }
  [[noreturn]] static void Fail(const std::string& why) {
    fmt::print(stderr, "TempLedger: {}\n", why);
    abort();
  }

  std::string folder_;
  std::unique_ptr<Ledger> ledger_;
};

}  // namespace heterok8s::ledger
