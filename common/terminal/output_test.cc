#include "common/terminal/output.h"

#include <unistd.h>

#include <catch2/catch.hpp>

namespace heterok8s::terminal {

TEST_CASE("columns are as wide as their widest cell and the last one is not padded") {
  Table table({"POD", "MODE"});
  table.Row({"default/web", "split"});
  table.Row({"a", "ordinary"});

  const std::string text = table.Render(/*colour=*/false);

  CHECK(text == "POD          MODE\ndefault/web  split\na            ordinary\n");
}

TEST_CASE("colour does not count as width and a table without colour has no escapes") {
  Table table({"X", "Y"});
  table.Row({{"ok", Style::kGood}, "1"});

  CHECK(table.Render(true) == "\033[1mX\033[0m   \033[1mY\033[0m\n\033[32mok\033[0m  1\n");
  CHECK(table.Render(false).find('\033') == std::string::npos);
}

TEST_CASE("characters beyond ASCII are one column wide") {
  Table table({"", ""});
  table.Row({"é", "1"});
  table.Row({"ab", "2"});

  CHECK(table.Render(false) == "é   1\nab  2\n");
}

TEST_CASE("on a narrow terminal long cells go on in the next line and short ones stay whole") {
  Table table({"", "HOST", "DPU"});
  table.Row({"other PU", "alive", "lease expired: connect to 100.64.0.2 failed"});
  table.Row({"epoch", "1", "nospacesinthisonewhichiscut"});

  CHECK(table.Render(false, 38) ==
        "          HOST   DPU\n"
        "other PU  alive  lease expired:\n"
        "                 connect to 100.64.0.2\n"
        "                 failed\n"
        "epoch     1      nospacesinthisonewhic\n"
        "                 hiscut\n");
  CHECK(table.Render(false).find("lease expired: connect to 100.64.0.2 failed\n") != std::string::npos);
}

TEST_CASE("a column is never narrower than a short word, however narrow the terminal") {
  Table table({"NAME"});
  table.Row({"ééééééééééééé"});

  CHECK(table.Render(false, 1) == "NAME\néééééééééééé\né\n");
}

TEST_CASE("a hint travels with its status and leaves the message alone") {
  const absl::Status status = WithHint(absl::NotFoundError("no Pod 'web'"), "`heteroctl ps` lists the Pods");

  CHECK(Message(status) == "no Pod 'web'");
  CHECK(HintOf(status) == "`heteroctl ps` lists the Pods");
  CHECK(HintOf(absl::InternalError("x")).empty());
}

TEST_CASE("NO_COLOR and a pipe both mean no colour") {
  int fds[2];
  REQUIRE(pipe(fds) == 0);

  CHECK_FALSE(ColourWanted(fds[1]));

  close(fds[0]);
  close(fds[1]);
}

TEST_CASE("ages and sizes are short") {
  CHECK(HumanAge(std::chrono::milliseconds(40)) == "40 ms");
  CHECK(HumanAge(std::chrono::seconds(90)) == "90 s");
  CHECK(HumanAge(std::chrono::hours(3)) == "3 h");
  CHECK(HumanBytes(512) == "512 B");
  CHECK(HumanBytes(1572864) == "1.5 MiB");
}

}  // namespace heterok8s::terminal
