#include "heterosock/agent/pairing.h"

#include <catch2/catch.hpp>

#include "heterosock/agent/credits.h"

namespace heterok8s::heterosock::agent {
namespace {

constexpr Time kNow{};
constexpr std::chrono::milliseconds kDeadline{2000};

Endpoint At(uint8_t host, uint16_t port) { return {IpAddress::V4(0x0a000000u | host), port}; }

// A connection from 10.0.0.1:1000 to 10.0.0.2:80, as seen from one of its ends.
Offer ClientOffer(uint64_t session = 1) {
  return {.name = {session, 1},
          .socket = {.cookie = 100, .netns_cookie = 7, .local = At(1, 1000), .remote = At(2, 80)},
          .layout_version = 1,
          .deadline = kNow + kDeadline};
}
Offer ServerOffer(uint64_t session = 2) {
  Offer offer = ClientOffer(session);
  offer.socket.cookie = 200;
  std::swap(offer.socket.local, offer.socket.remote);
  return offer;
}

Pairing Permissive() {
  return Pairing([](const Domain&, const Domain&) { return true; });
}

Pairing Trusting() {
  return Pairing([](const Domain&, const Domain&) { return true; }, /*believe_addresses=*/true);
}

Reason ReasonOf(const Outcome& outcome) {
  return std::holds_alternative<Decline>(outcome) ? std::get<Decline>(outcome).reason : Reason::kNone;
}

TEST_CASE("two ends whose addresses mirror each other are paired") {
  Pairing pairing = Permissive();
  CHECK(pairing.Add(ClientOffer()).empty());

  auto outcomes = pairing.Add(ServerOffer());

  REQUIRE(outcomes.size() == 1);
  CHECK(std::get<Pair>(outcomes[0]).first.name.session == 1);
  CHECK(std::get<Pair>(outcomes[0]).second.name.session == 2);
  CHECK(pairing.waiting() == 0);
  CHECK_FALSE(pairing.NextDeadline());
}

TEST_CASE("an offer whose other end is never offered is declined at its deadline, not before") {
  Pairing pairing = Permissive();
  pairing.Add(ClientOffer());

  CHECK(pairing.Expire(kNow + kDeadline - std::chrono::milliseconds(1)).empty());
  CHECK(pairing.NextDeadline() == kNow + kDeadline);
  auto outcomes = pairing.Expire(kNow + kDeadline);

  REQUIRE(outcomes.size() == 1);
  CHECK(ReasonOf(outcomes[0]) == Reason::kNoPeer);
  CHECK(pairing.waiting() == 0);
}

TEST_CASE("the same token joins ends whose addresses NAT has changed") {
  Pairing pairing = Permissive();
  Offer client = ClientOffer(), server = ServerOffer();
  client.socket.remote = At(99, 80);  // a Service address
  client.socket.token = server.socket.token = 5;
  client.socket.connected = true;
  pairing.Add(server);

  auto outcomes = pairing.Add(client);

  REQUIRE(outcomes.size() == 1);
  CHECK(std::get<Pair>(outcomes[0]).first.socket.connected);  // side 0 is the end that connected
}

TEST_CASE("different tokens are different connections, even between mirrored addresses") {
  Pairing pairing = Permissive();
  Offer client = ClientOffer(), server = ServerOffer();
  client.socket.token = 5;
  client.socket.connected = true;
  server.socket.token = 6;
  pairing.Add(client);

  CHECK(pairing.Add(server).empty());
  CHECK(pairing.waiting() == 2);
}

TEST_CASE("two ends that both connected do not belong together, whatever their tokens say") {
  Pairing pairing = Permissive();
  Offer client = ClientOffer(), other = ServerOffer();
  client.socket.token = other.socket.token = 5;
  client.socket.connected = other.socket.connected = true;
  pairing.Add(client);

  CHECK(pairing.Add(other).empty());
}

TEST_CASE("an end without a token is matched by addresses") {
  Pairing pairing = Permissive();
  Offer client = ClientOffer();
  client.socket.token = 5;
  client.socket.connected = true;
  pairing.Add(client);

  CHECK(pairing.Add(ServerOffer()).size() == 1);
}

TEST_CASE("addresses of another namespace are a claim: without the token they join nobody") {
  Pairing pairing = Permissive();
  Offer server = ServerOffer(), forged = ClientOffer();
  server.socket.token = GENERATE(0, 5);
  forged.socket.cookie = 300;
  forged.socket.netns_cookie = 99;  // of its own, where it gave itself the client's address and the server's
  pairing.Add(server);

  CHECK(pairing.Add(forged).empty());

  // The true one comes later, and is not hurt.
  Offer client = ClientOffer(3);
  client.socket.token = server.socket.token;
  client.socket.connected = client.socket.token != 0;
  auto outcomes = pairing.Add(client);
  REQUIRE(outcomes.size() == 1);
  CHECK(std::get<Pair>(outcomes[0]).first.name.session != forged.name.session);
}

TEST_CASE("who believes addresses gets ends of two namespaces joined by them") {
  Pairing pairing = Trusting();
  Offer client = ClientOffer();
  client.socket.netns_cookie = 8;
  client.socket.token = GENERATE(0, 5);  // the listener may be older than the program that reads tokens
  client.socket.connected = client.socket.token != 0;
  pairing.Add(client);

  auto outcomes = pairing.Add(ServerOffer());

  REQUIRE(outcomes.size() == 1);
  CHECK(std::holds_alternative<Pair>(outcomes[0]));
}

TEST_CASE("an accepted end with a token is joined by nothing else across namespaces, whatever is believed") {
  Pairing pairing = Trusting();
  Offer server = ServerOffer(), forged = ClientOffer();
  server.socket.token = 5;
  forged.socket.netns_cookie = 99;
  pairing.Add(server);

  CHECK(pairing.Add(forged).empty());
}

TEST_CASE("addresses that every namespace has are never joined across namespaces") {
  const auto address = GENERATE("127.0.0.1", "169.254.1.1", "::1", "fe80::1");
  CAPTURE(address);
  const IpAddress everywhere = *IpAddress::Parse(address);
  Pairing pairing = Trusting();
  Offer client = ClientOffer(), server = ServerOffer();
  client.socket.local.address = client.socket.remote.address = everywhere;
  server.socket.local.address = server.socket.remote.address = everywhere;
  server.socket.netns_cookie = 8;
  pairing.Add(client);

  CHECK(pairing.Add(server).empty());
}

TEST_CASE("several candidates in other namespaces are ambiguous, and all are declined") {
  Pairing pairing = Trusting();
  for (uint64_t i = 0; i < 2; ++i) {
    Offer client = ClientOffer(10 + i);
    client.socket.cookie = 100 + i;
    client.socket.netns_cookie = 20 + i;
    CHECK(pairing.Add(client).empty());
  }

  auto outcomes = pairing.Add(ServerOffer());

  REQUIRE(outcomes.size() == 3);
  for (const Outcome& outcome : outcomes) CHECK(ReasonOf(outcome) == Reason::kAmbiguous);
  CHECK(pairing.waiting() == 0);
}

TEST_CASE("a candidate in the same namespace is preferred to one elsewhere") {
  Pairing pairing = Trusting();
  Offer elsewhere = ClientOffer(10);
  elsewhere.socket.cookie = 101;
  elsewhere.socket.netns_cookie = 20;
  pairing.Add(elsewhere);
  pairing.Add(ClientOffer(1));

  auto outcomes = pairing.Add(ServerOffer());

  REQUIRE(outcomes.size() == 1);
  CHECK(std::get<Pair>(outcomes[0]).first.name.session == 1);
}

TEST_CASE("a socket offered twice is declined the second time") {
  Pairing pairing = Permissive();
  pairing.Add(ClientOffer(1));

  auto outcomes = pairing.Add(ClientOffer(3));

  REQUIRE(outcomes.size() == 1);
  CHECK(ReasonOf(outcomes[0]) == Reason::kDuplicate);
  CHECK(pairing.waiting() == 1);
}

TEST_CASE("a pair that the policy forbids is declined on both sides") {
  Pairing pairing([](const Domain&, const Domain&) { return false; });
  pairing.Add(ClientOffer());

  auto outcomes = pairing.Add(ServerOffer());

  REQUIRE(outcomes.size() == 2);
  for (const Outcome& outcome : outcomes) CHECK(ReasonOf(outcome) == Reason::kPolicy);
}

TEST_CASE("ends with different layouts stay on TCP") {
  Pairing pairing = Permissive();
  pairing.Add(ClientOffer());
  Offer server = ServerOffer();
  server.layout_version = 2;

  auto outcomes = pairing.Add(server);

  REQUIRE(outcomes.size() == 2);
  CHECK(ReasonOf(outcomes[0]) == Reason::kVersion);
}

TEST_CASE("ends of which one received what the other never sent are no pair") {
  Pairing pairing = Permissive();
  Offer client = ClientOffer();
  client.socket.traffic = {.bytes_acked = 11, .bytes_sent = 10, .bytes_received = 5000};
  pairing.Add(client);
  Offer server = ServerOffer();
  server.socket.traffic = {.bytes_acked = 20, .bytes_sent = 20, .bytes_received = 10};

  CHECK(ReasonOf(pairing.Add(server)[0]) == Reason::kImplausible);
}

TEST_CASE("counters that grew between the two looks are plausible") {
  const Traffic client{.bytes_acked = 11, .bytes_sent = 10, .bytes_received = 5};
  CHECK(IsPlausible(client, {.bytes_acked = 5, .bytes_sent = 5, .bytes_received = 10}));
  CHECK(IsPlausible(client, {.bytes_acked = 900, .bytes_sent = 1000, .bytes_received = 4000}));
  CHECK_FALSE(IsPlausible(client, {.bytes_acked = 0, .bytes_sent = 0, .bytes_received = 10}));
  CHECK_FALSE(IsPlausible(client, {.bytes_acked = 5, .bytes_sent = 5, .bytes_received = 10, .send_scale = 3}));
}

// The two talk on all the time. The other PU's agent looks at the client; while its message is under way this one looks
// at the server.
TEST_CASE("an end that the other PU looked at earlier, and brings later, fits") {
  Pairing pairing = Permissive();
  Offer server = ServerOffer();
  server.socket.traffic = {.bytes_acked = 64, .bytes_sent = 64, .bytes_received = 80};
  pairing.Add(server);
  Offer client = ClientOffer();
  client.brought = true;
  client.socket.traffic = {.bytes_acked = 33, .bytes_sent = 32, .bytes_received = 32};

  auto outcomes = pairing.Add(client);

  REQUIRE(outcomes.size() == 1);
  CHECK(std::holds_alternative<Pair>(outcomes[0]));
}

TEST_CASE("an end that the other PU brings and that received what this one never sent is none") {
  Pairing pairing = Permissive();
  Offer server = ServerOffer();
  server.socket.traffic = {.bytes_acked = 64, .bytes_sent = 64, .bytes_received = 80};
  pairing.Add(server);
  Offer client = ClientOffer();
  client.brought = true;
  client.socket.traffic = {.bytes_acked = 33, .bytes_sent = 32, .bytes_received = 5000};

  CHECK(ReasonOf(pairing.Add(client)[0]) == Reason::kImplausible);
}

TEST_CASE("what a session offered goes with it") {
  Pairing pairing = Permissive();
  pairing.Add(ClientOffer(1));

  CHECK(pairing.waiting_of(1) == 1);
  CHECK(pairing.RemoveSession(1).size() == 1);
  CHECK(pairing.Add(ServerOffer()).empty());
  CHECK(pairing.Remove({2, 1}).has_value());
  CHECK_FALSE(pairing.Remove({2, 1}).has_value());
  CHECK(pairing.waiting() == 0);
}

TEST_CASE("the oldest offer of a session is the one whose deadline comes first") {
  Pairing pairing = Permissive();
  Offer late = ClientOffer(1), early = ServerOffer(1), other = ServerOffer(3);
  early.name.offer = 2;
  early.socket.local = At(3, 80);
  other.socket.local = At(4, 80);
  early.deadline -= std::chrono::milliseconds(2);
  other.deadline -= std::chrono::milliseconds(3);
  pairing.Add(late);
  pairing.Add(early);
  pairing.Add(other);

  auto oldest = pairing.RemoveOldest(1);

  REQUIRE(oldest.has_value());
  CHECK(oldest->name.offer == 2);
  CHECK(pairing.waiting_of(1) == 1);
  CHECK(pairing.RemoveOldest(1).has_value());
  CHECK_FALSE(pairing.RemoveOldest(1).has_value());
  CHECK(pairing.waiting_of(3) == 1);
}

TEST_CASE("credits are refused at the limit and come back") {
  Credits credits({.channels = 2, .bytes = 100});
  CHECK(credits.Take("a", 60));
  CHECK_FALSE(credits.Take("a", 60));
  CHECK(credits.Take("a", 40));
  CHECK_FALSE(credits.Take("a", 0));
  CHECK(credits.Take("b", 100));
  CHECK(credits.uses().at("a").refused == 2);

  credits.GiveBack("a", 60);
  CHECK(credits.Take("a", 60));
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
