"""A front: the program before a cluster."""

import os

from lib import Store


class Front(Store):
    """The program on a port of the system's choice, before these nodes."""

    def __init__(self, program, addresses, replicas, patience_seconds=60):
        super().__init__(program, "", "warn", patience_seconds)
        self.command = [program, "--port", "0", "--log-level", "warn",
                        "--cluster", addresses, "--cluster-wait", str(replicas)]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def sockets(self):
        """The numbers of its sockets, as the system's table of connections has them."""
        folder = f"/proc/{self.process.pid}/fd"
        links = []
        for name in os.listdir(folder):
            try:
                links.append(os.readlink(f"{folder}/{name}"))
            except FileNotFoundError:
                pass
        return {int(link[8:-1]) for link in links if link.startswith("socket:[")}

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def end(self):
        """Asks it to stop; gives its exit code."""
        if not self.process:
            return None
        self.process.terminate()
        code = self.process.wait(self.patience_seconds)
        self.process.stdout.close()
        return code
