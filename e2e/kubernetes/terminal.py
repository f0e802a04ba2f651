"""A program in a terminal of a person: what it shows, what is typed, and another size of the window.

    with Terminal(["kubectl", "exec", "-it", "web", "--", "sh"], rows=33, columns=111) as terminal:
        terminal.until("# ")
        terminal.type("stty size\\n")
"""
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

from cluster import Failed


class Terminal:
    def __init__(self, argv, rows, columns):
        self.leader, follower = pty.openpty()
        self.seen = ""  # what was shown and not yet asked for
        self.size(rows, columns)
        self.program = subprocess.Popen(argv, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
        os.close(follower)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.kill()
        self.program.wait()
        os.close(self.leader)

    def size(self, rows, columns):
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def resize(self, rows, columns):
        self.size(rows, columns)
        # The kernel tells it to the foreground of a session whose terminal this is.
        self.program.send_signal(signal.SIGWINCH)

    def until(self, text, seconds=60, again=""):
        """Reads on until text is shown; `again` is typed each second until then."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.leader], [], [], max(0, min(1, end - time.monotonic())))
            if time.monotonic() > end:
                raise Failed(f"no '{text}' on the terminal: {self.seen!r}")
            if ready:
                try:
                    self.seen += os.read(self.leader, 4096).decode(errors="replace")
                except OSError as gone:  # EIO: nobody has the other end
                    raise Failed(f"the program ended without '{text}': {self.seen!r}") from gone
            elif again:
                self.type(again)
        self.seen = self.seen[self.seen.index(text) + len(text):]

    def type(self, text):
        os.write(self.leader, text.encode())

    def wait(self, seconds=60):
        """Its exit code; what it still shows is read meanwhile."""
        end = time.monotonic() + seconds
        while self.program.poll() is None:
            if time.monotonic() > end:
                raise Failed(f"no end within {seconds} s: {self.seen!r}")
            if select.select([self.leader], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.leader, 4096).decode(errors="replace")
                except OSError:  # all is read; it is about to end
                    time.sleep(0.05)
        return self.program.returncode
