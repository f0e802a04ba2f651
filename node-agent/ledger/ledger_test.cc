#include "node-agent/ledger/ledger.h"

#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <set>
#include <thread>

#include "common/fault/fault.h"
#include "common/testing/matchers.h"
#include "node-agent/ledger/testing.h"

namespace heterok8s::ledger {
namespace {

using heterok8s::testing::HasCode;
using heterok8s::testing::Says;

Attachment SomeAttachment(const std::string& container = "c1") {
  return {.key = {"podnet", container, "eth0"},
          .pod_key = "uid-1",
          .pod_namespace = "default",
          .pod_name = "web",
          .netns_path = "/run/netns/a",
          .mode = Mode::kSplit,
          .state = State::kPreparing,
          .generation = 7,
          .details = R"({"a":"\u0000"})",
          .created_unix_ms = 5};
}

IpAddress Ip(const std::string& text) { return *IpAddress::Parse(text); }

template <typename F>
auto In(Ledger& ledger, F f) {
  decltype(f(std::declval<Tx&>())) result = absl::UnknownError("not run");
  REQUIRE_OK(ledger.Transact([&](Tx& tx) {
    result = f(tx);
    return absl::OkStatus();
  }));
  REQUIRE_OK(result);
  return *std::move(result);
}

absl::StatusOr<IpAddress> Next(Ledger& ledger, const std::string& first, const std::string& last,
                               const std::string& owner, uint32_t stride = 1) {
  absl::StatusOr<IpAddress> got = absl::UnknownError("not run");
  absl::Status done = ledger.Transact([&](Tx& tx) {
    got = tx.ClaimNext("podnet", Ip(first), Ip(last), owner, stride);
    return got.status();
  });
  if (!done.ok()) return done;
  return got;
}

TEST_CASE("an attachment comes back as it was put, also after reopening") {
  TempLedger temp;
  REQUIRE_OK(temp->Transact([](Tx& tx) { return tx.PutAttachment(SomeAttachment()); }));
  temp.Reopen();

  std::vector<Attachment> all = *temp->ListAttachments();
  REQUIRE(all.size() == 1);
  CHECK(all[0].key == SomeAttachment().key);
  CHECK(all[0].pod_key == "uid-1");
  CHECK(all[0].pod_namespace == "default");
  CHECK(all[0].pod_name == "web");
  CHECK(all[0].netns_path == "/run/netns/a");
  CHECK(all[0].mode == Mode::kSplit);
  CHECK(all[0].state == State::kPreparing);
  CHECK(all[0].generation == 7);
  CHECK(all[0].details == SomeAttachment().details);
  CHECK(all[0].created_unix_ms == 5);
}

TEST_CASE("putting the same key again replaces the row; deleting it twice is fine") {
  TempLedger temp;
  Attachment attachment = SomeAttachment();
  REQUIRE_OK(temp->Transact([&](Tx& tx) { return tx.PutAttachment(attachment); }));
  attachment.state = State::kCommitted;
  REQUIRE_OK(temp->Transact([&](Tx& tx) { return tx.PutAttachment(attachment); }));

  CHECK(In(*temp.operator->(), [&](Tx& tx) { return tx.FindAttachment(attachment.key); })->state == State::kCommitted);
  CHECK(In(*temp.operator->(), [&](Tx& tx) { return tx.AttachmentsOfPod("uid-1"); }).size() == 1);

  for (int i = 0; i < 2; ++i) {
    REQUIRE_OK(temp->Transact([&](Tx& tx) { return tx.DeleteAttachment(attachment.key); }));
  }
  CHECK_FALSE(In(*temp.operator->(), [&](Tx& tx) { return tx.FindAttachment(attachment.key); }).has_value());
}

TEST_CASE("a transaction whose function fails leaves nothing and returns its status") {
  TempLedger temp;
  absl::Status status = temp->Transact([](Tx& tx) -> absl::Status {
    HK_RETURN_IF_ERROR(tx.PutAttachment(SomeAttachment()));
    return absl::AbortedError("by the test");
  });

  CHECK_THAT(status, HasCode(absl::StatusCode::kAborted));
  CHECK(temp->ListAttachments()->empty());
}

TEST_CASE("an address belongs to one owner, and the refusal names the holder") {
  TempLedger temp;
  REQUIRE_OK(temp->Transact([](Tx& tx) { return tx.ClaimAddress("podnet", Ip("10.0.0.5"), "uid-1"); }));

  CHECK_OK(temp->Transact([](Tx& tx) { return tx.ClaimAddress("podnet", Ip("10.0.0.5"), "uid-1"); }));
  CHECK_OK(temp->Transact([](Tx& tx) { return tx.ClaimAddress("other", Ip("10.0.0.5"), "uid-2"); }));
  absl::Status taken = temp->Transact([](Tx& tx) { return tx.ClaimAddress("podnet", Ip("10.0.0.5"), "uid-2"); });
  CHECK_THAT(taken, HasCode(absl::StatusCode::kAlreadyExists));
  CHECK_THAT(taken, Says("uid-1"));
}

TEST_CASE("a range is handed out round robin and wraps to what was released") {
  TempLedger temp;
  Ledger& ledger = temp.ledger();
  CHECK(Next(ledger, "10.0.0.1", "10.0.0.3", "a")->ToString() == "10.0.0.1");
  CHECK(Next(ledger, "10.0.0.1", "10.0.0.3", "b")->ToString() == "10.0.0.2");
  REQUIRE_OK(ledger.Transact([](Tx& tx) { return tx.ReleaseAddresses("podnet", "a"); }));

  CHECK(Next(ledger, "10.0.0.1", "10.0.0.3", "c")->ToString() == "10.0.0.3");
  CHECK(Next(ledger, "10.0.0.1", "10.0.0.3", "d")->ToString() == "10.0.0.1");
  CHECK_THAT(Next(ledger, "10.0.0.1", "10.0.0.3", "e").status(), HasCode(absl::StatusCode::kResourceExhausted));

  REQUIRE_OK(ledger.Transact([](Tx& tx) { return tx.ReleaseAddresses("podnet", "b"); }));
  CHECK(Next(ledger, "10.0.0.1", "10.0.0.3", "e")->ToString() == "10.0.0.2");
}

TEST_CASE("addresses are handed out at both ends of the address space and in both families") {
  TempLedger temp;
  CHECK(Next(temp.ledger(), "255.255.255.255", "255.255.255.255", "a")->ToString() == "255.255.255.255");
  CHECK_THAT(Next(temp.ledger(), "255.255.255.255", "255.255.255.255", "b").status(),
             HasCode(absl::StatusCode::kResourceExhausted));
  CHECK(Next(temp.ledger(), "fd00::ff", "fd00::1:0", "a")->ToString() == "fd00::ff");
  CHECK(Next(temp.ledger(), "fd00::ff", "fd00::1:0", "b")->ToString() == "fd00::100");
}

TEST_CASE("blocks are claimed by their first address") {
  TempLedger temp;
  CHECK(Next(temp.ledger(), "169.254.64.0", "169.254.64.11", "a", 4)->ToString() == "169.254.64.0");
  CHECK(Next(temp.ledger(), "169.254.64.0", "169.254.64.11", "b", 4)->ToString() == "169.254.64.4");
  CHECK(Next(temp.ledger(), "169.254.64.0", "169.254.64.11", "c", 4)->ToString() == "169.254.64.8");
  CHECK_THAT(Next(temp.ledger(), "169.254.64.0", "169.254.64.11", "d", 4).status(),
             HasCode(absl::StatusCode::kResourceExhausted));
}

TEST_CASE("a quarantined address stays taken until it is released") {
  TempLedger temp;
  Ledger& ledger = temp.ledger();
  REQUIRE_OK(Next(ledger, "10.0.0.1", "10.0.0.1", "a"));
  REQUIRE_OK(ledger.Transact([](Tx& tx) { return tx.RenameOwner("podnet", "a", "quarantine:a"); }));

  CHECK(In(ledger, [](Tx& tx) { return tx.HolderOf("podnet", Ip("10.0.0.1")); }) == "quarantine:a");
  CHECK(In(ledger, [](Tx& tx) { return tx.AddressesOf("podnet", "a"); }).empty());
  CHECK_THAT(Next(ledger, "10.0.0.1", "10.0.0.1", "b").status(), HasCode(absl::StatusCode::kResourceExhausted));
}

TEST_CASE("generations rise, are never reused after a restart, and a new file starts above an old one") {
  uint64_t last = 0;
  {
    TempLedger temp;
    last = In(temp.ledger(), [](Tx& tx) { return tx.NextGeneration(); });
    temp.Reopen();
    CHECK(In(temp.ledger(), [](Tx& tx) { return tx.NextGeneration(); }) == last + 1);
  }
  CHECK(last > 1'700'000'000);
}

TEST_CASE("tombstones and values are kept by name") {
  TempLedger temp;
  REQUIRE_OK(temp->Transact([](Tx& tx) -> absl::Status {
    HK_RETURN_IF_ERROR(tx.PutTombstone({"uid-1", 4, "DPU away", 9}));
    HK_RETURN_IF_ERROR(tx.PutTombstone({"uid-1", 5, "DPU away", 9}));
    return tx.PutValue("epoch", "3");
  }));
  temp.Reopen();

  REQUIRE(temp->ListTombstones()->size() == 1);
  CHECK(temp->ListTombstones()->at(0).generation == 5);
  CHECK(In(temp.ledger(), [](Tx& tx) { return tx.FindTombstone("uid-1"); })->reason == "DPU away");
  CHECK_FALSE(In(temp.ledger(), [](Tx& tx) { return tx.FindTombstone("uid-2"); }).has_value());
  CHECK(In(temp.ledger(), [](Tx& tx) { return tx.GetValue("epoch"); }) == "3");
  REQUIRE_OK(temp->Transact([](Tx& tx) { return tx.PutValue("epoch", ""); }));
  CHECK_FALSE(In(temp.ledger(), [](Tx& tx) { return tx.GetValue("epoch"); }).has_value());
  REQUIRE_OK(temp->Transact([](Tx& tx) { return tx.DeleteTombstone("uid-1"); }));
  CHECK(temp->ListTombstones()->empty());
}

TEST_CASE("parallel writers get different addresses and all of their rows are there") {
  TempLedger temp;
  std::vector<std::thread> threads;
  std::vector<absl::Status> results(16);
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 8 && results[t].ok(); ++i) {
        results[t] = temp->Transact([&](Tx& tx) -> absl::Status {
          std::string owner = fmt::format("pod-{}-{}", t, i);
          HK_RETURN_IF_ERROR(tx.ClaimNext("podnet", Ip("10.0.0.1"), Ip("10.0.0.128"), owner).status());
          Attachment attachment = SomeAttachment(owner);
          attachment.pod_key = owner;
          return tx.PutAttachment(attachment);
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  for (const absl::Status& result : results) CHECK_OK(result);
  CHECK(temp->ListAttachments()->size() == 128);
  std::set<std::string> owners;
  std::vector<AddressRow> rows = *temp->ListAddresses();
  for (const AddressRow& row : rows) owners.insert(row.owner);
  CHECK(owners.size() == 128);
}

TEST_CASE("an ordered commit is there after kill -9") {
  char folder[] = "/tmp/hkledgerXXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  std::string path = std::string(folder) + "/ledger.db";
  pid_t child = fork();
  if (child == 0) {
    auto ledger = Ledger::Open(path);
    if (!ledger.ok()) _exit(1);
    absl::Status done =
        (*ledger)->Transact([](Tx& tx) { return tx.PutAttachment(SomeAttachment()); }, Durability::kOrdered);
    kill(getpid(), done.ok() ? SIGKILL : SIGTERM);
    _exit(1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WTERMSIG(status) == SIGKILL);

  REQUIRE(std::filesystem::file_size(path + "-wal") > 0);
  {
    auto ledger = Ledger::Open(path);
    REQUIRE_OK(ledger);
    CHECK((*ledger)->ListAttachments()->size() == 1);
    CHECK(std::filesystem::file_size(path + "-wal") == 0);  // in the database, which is written and synced anew
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("after a failed sync nothing is synced any more, and the ledger says so until it is opened anew") {
  TempLedger temp;
  CHECK_OK(temp->Health());
  auto write = [&](Durability durability) {
    return temp->Transact([](Tx& tx) { return tx.PutValue("name", "value"); }, durability);
  };
  {
    fault::ScopedAction broken("ledger.sync", [] { return absl::DataLossError("Input/output error"); });
    CHECK_FALSE(write(Durability::kSynced).ok());
  }

  CHECK_OK(write(Durability::kOrdered));
  CHECK_FALSE(temp->Sync().ok());
  CHECK_THAT(temp->Health(), HasCode(absl::StatusCode::kUnavailable));
  CHECK_THAT(temp->Health(), Says("Input/output error"));
  temp.Reopen();
  CHECK_OK(temp->Health());
  CHECK_OK(write(Durability::kSynced));
}

TEST_CASE("one process at a time has the ledger") {
  TempLedger temp;
  absl::Status second = Ledger::Open(temp.path()).status();
  CHECK_THAT(second, HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK_THAT(second, Says(temp.path()));
}

class ForeignFile {
 public:
  ForeignFile() {
    char folder[] = "/tmp/hkledgerXXXXXX";
    REQUIRE(mkdtemp(folder) != nullptr);
    folder_ = folder;
  }
  ~ForeignFile() { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/ledger.db"; }

  void Text(const std::string& text) { std::ofstream(path()) << text; }
  void Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    REQUIRE(sqlite3_open(path().c_str(), &db) == SQLITE_OK);
    REQUIRE(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK);
    sqlite3_close(db);
  }

 private:
  std::string folder_;
};

TEST_CASE("a file that is not a ledger is refused and left as it is") {
  ForeignFile file;
  std::string text(5000, 'x');
  file.Text(text);

  CHECK_THAT(Ledger::Open(file.path()).status(), HasCode(absl::StatusCode::kDataLoss));
  std::ifstream now(file.path());
  CHECK(std::string(std::istreambuf_iterator<char>(now), {}) == text);
}

TEST_CASE("another program's database is refused") {
  ForeignFile file;
  file.Sql("CREATE TABLE theirs (x)");

  absl::Status status = Ledger::Open(file.path()).status();
  CHECK_THAT(status, HasCode(absl::StatusCode::kDataLoss));
  CHECK_THAT(status, Says("not a HeteroK8s ledger"));
}

TEST_CASE("a ledger of a newer version is refused by version") {
  ForeignFile file;
  { REQUIRE_OK(Ledger::Open(file.path())); }
  file.Sql("PRAGMA user_version = 99");

  absl::Status status = Ledger::Open(file.path()).status();
  CHECK_THAT(status, HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK_THAT(status, Says("version 99"));
}

TEST_CASE("a refused file can be set aside, and a fresh ledger takes its place") {
  ForeignFile file;
  file.Text("not a database at all, but longer than the header of one: " + std::string(200, '.'));
  REQUIRE_FALSE(Ledger::Open(file.path()).ok());

  absl::StatusOr<std::string> aside = Ledger::SetAside(file.path());
  REQUIRE_OK(aside);
  CHECK(aside->starts_with(file.path() + ".corrupt-"));
  CHECK(std::filesystem::exists(*aside));
  CHECK_OK(Ledger::Open(file.path()));
}

}  // namespace
}  // namespace heterok8s::ledger
