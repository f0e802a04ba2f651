// /metrics, /healthz and /readyz of one daemon.
//
// Purpose: a small HTTP server for Prometheus and for people's probes. /metrics is the text format of all collectables;
// /healthz answers 200 while the process can answer; /readyz answers 200, or 503 with the reason.
// Threading: requests are served on two threads of its own; collectables and `ready` are called there.
// Ownership: collectables are held weakly, as Prometheus's own exposer does. Errors: kUnavailable when the address
// cannot be listened on.
//
//   auto registry = std::make_shared<prometheus::Registry>();
//   HK_ASSIGN_OR_RETURN(auto server, HttpServer::Start({.listen = "127.0.0.1:0", .collectables = {registry},
//                                                       .ready = [&] { return engine.Ready(); }}));
//   spdlog::info("metrics on port {}", server->port());
#pragma once

#include <prometheus/collectable.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/status/status.h"

class CivetServer;
class CivetHandler;

namespace heterok8s::metrics {

class HttpServer {
 public:
  struct Options {
    std::string listen;  // "127.0.0.1:9464"; port 0: see port()
    std::vector<std::weak_ptr<prometheus::Collectable>> collectables;
    std::function<absl::Status()> ready;  // empty: always
  };
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(Options options);
  ~HttpServer();
  int port() const { return port_; }

 private:
  HttpServer();
  std::vector<std::unique_ptr<CivetHandler>> handlers_;
  std::unique_ptr<CivetServer> server_;  // after the handlers: it ends first
  std::string host_;                     // that it listens on; empty when no address is given
  int port_ = 0;
};

}  // namespace heterok8s::metrics
