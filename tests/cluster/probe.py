"""What a cable carries, told by plain TCP sockets: nothing of MPI and nothing of calibration is in it.

    probe.py PORT [PEER]

Two of these, the second with the first one's address, send each other bytes, one way and then both ways at once. It prints
seconds by direction and size as JSON, the median of several tries each.
"""

import json
import socket
import sys
import threading
import time

SIZES, TRIES, CALLS = (2**20, 2**22, 2**23), 7, 100


def receive(stream: socket.socket, into: memoryview) -> None:
    got = 0
    while got < len(into):
        got += stream.recv_into(into[got:])


def one_way(stream: socket.socket, sends: bool, sent: bytes, into: memoryview) -> None:
    if sends:
        stream.sendall(sent)
        receive(stream, into[:1])
    else:
        receive(stream, into)
        stream.sendall(sent[:1])


def both_ways(stream: socket.socket, _: bool, sent: bytes, into: memoryview) -> None:
    receiving = threading.Thread(target=receive, args=(stream, into))
    receiving.start()
    stream.sendall(sent)
    receiving.join()


def connected(port: int, peer: str) -> socket.socket:
    if not peer:
        return socket.create_server(("", port)).accept()[0]
    for _ in range(CALLS):
        try:
            return socket.create_connection((peer, port))
        except OSError:
            time.sleep(0.05)
    raise OSError(f"nobody answers at {peer}:{port}")


def main(port: str, peer: str = "") -> None:
    stream = connected(int(port), peer)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found: dict[str, dict[int, float]] = {}
    for way in (one_way, both_ways):
        for size in SIZES:
            sent, into, seconds = bytes(size), memoryview(bytearray(size)), []
            for _ in range(TRIES):
                began = time.perf_counter()
                way(stream, bool(peer), sent, into)
                seconds.append(time.perf_counter() - began)
            found.setdefault(way.__name__, {})[size] = sorted(seconds[1:])[TRIES // 2]
    if peer:
        print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
