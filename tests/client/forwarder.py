"""A network between a client and a server that can fall silent: connections stay, and nothing goes through."""

import contextlib
import socket
import threading


class Forwarder:
    """Forwards connections to a port of this machine, from a port of its own, until told to be silent or closed."""

    def __init__(self, port, *, listen_on=0):
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", listen_on))
        self._silent = threading.Event()
        self._sockets = [self._listener]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self):
        self._silent.set()

    def close(self):
        self._silent.set()
        for each in self._sockets:
            # Wakes whoever waits on it, as closing alone does not.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [caller, server]
                threading.Thread(target=self._carry, args=(caller, server), daemon=True).start()
                threading.Thread(target=self._carry, args=(server, caller), daemon=True).start()

    def _carry(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not self._silent.is_set():
                    target.sendall(data)
