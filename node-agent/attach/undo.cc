#include "node-agent/attach/undo.h"

#include <algorithm>

namespace heterok8s::attach {

absl::Status CheckGc(const cni::Request& request) {
  if (request.config.has_valid_attachments) return absl::OkStatus();
  return cni::MakeError(cni::kInvalidConfig, "GC needs cni.dev/valid-attachments, and the configuration has none");
}

bool IsGarbage(const cni::Request& request, const ledger::Attachment& row) {
  if (row.key.network != request.config.name) return false;
  const cni::AttachmentRef ref{.container_id = row.key.container_id, .ifname = row.key.ifname};
  const auto& valid = request.config.valid_attachments;
  return std::find(valid.begin(), valid.end(), ref) == valid.end();
}

}  // namespace heterok8s::attach
