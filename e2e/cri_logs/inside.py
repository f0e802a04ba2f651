"""In the host PU, over heterocri: `status ID` prints a container's status as JSON, `rotate ID N` does with its log what
kubelet does: renames it to LOG.N and asks for a new file."""
import json
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cri_conformance"))
from cri import Cri, pb  # noqa: E402


def main(command, container, *more):
    cri = Cri("/run/heterok8s/cri.sock")
    status = cri.ContainerStatus(container_id=container).status
    if command == "rotate":
        os.rename(status.log_path, f"{status.log_path}.{more[0]}")
        try:
            cri.ReopenContainerLog(container_id=container)
        except Exception:
            os.rename(f"{status.log_path}.{more[0]}", status.log_path)  # as kubelet, which tries again later
            raise
    print(json.dumps({"path": status.log_path, "running": status.state == pb.CONTAINER_RUNNING, "exit_code": status.exit_code, "reason": status.reason}))


if __name__ == "__main__":
    main(*sys.argv[1:])
