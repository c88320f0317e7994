"""A service manager with a descriptor store, as far as a unit of Type=notify needs one.

usage: manager.py SOCKET COMMAND...

It starts COMMAND, and prints what that says, a JSON object a line. Each line on standard input is an order:
  restart   ends the main process with SIGUSR2 (RestartKillSignal=), waits for its end, and starts COMMAND again, with
            the further arguments of the order
  crash     the same with SIGKILL for it and its children
  stop      ends it with SIGTERM, waits, closes the store, and exits with its status
"""

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys

path, command = sys.argv[1], sys.argv[2:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
store = []  # (name, descriptor)


def say(**what):
    print(json.dumps(what), flush=True)


def start(more=()):
    numbers = [number for _, number in store]
    high = max(numbers, default=3) + len(numbers) + 4

    def prepare():
        # First out of the way of the numbers that they get.
        copies = [os.dup2(number, high + index) for index, number in enumerate(numbers)]
        for index, copy in enumerate(copies):
            os.dup2(copy, 3 + index, inheritable=True)
        if numbers:
            os.environ["LISTEN_PID"] = str(os.getpid())
        os.closerange(3 + len(numbers), high + len(numbers) + 1)

    environment = dict(os.environ, NOTIFY_SOCKET=path)
    if store:
        environment["LISTEN_FDS"] = str(len(store))
        environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in store)
    # The variable with the process' own number has to be set in that process.
    shell = ["sh", "-c", 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"', "sh"] + command + list(more)
    process = subprocess.Popen(shell, preexec_fn=prepare, close_fds=False, stdin=subprocess.DEVNULL, env=environment)
    say(started=process.pid, kept=len(store))
    return process


def hear():
    message, files, _, _ = notify.recvmsg(65536, socket.CMSG_SPACE(253 * 4))
    received = array.array("i")
    for level, kind, data in files:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    lines = dict(line.split("=", 1) for line in message.decode().splitlines() if "=" in line)
    name = lines.get("FDNAME", "stored")
    if lines.get("FDSTORE") == "1":
        store.extend((name, number) for number in received)
        return
    for number in received:
        os.close(number)
    if lines.get("FDSTOREREMOVE") == "1":
        for entry in [entry for entry in store if entry[0] == name]:
            os.close(entry[1])
            store.remove(entry)
        return
    say(message=message.decode())


def end(process, how):
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(how)
    if how == signal.SIGKILL:
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                pass
    while process.poll() is None:
        if select.select([notify], [], [], 0.01)[0]:
            hear()
    while select.select([notify], [], [], 0)[0]:
        hear()
    say(ended=process.returncode, kept=len(store))


main = start()
orders = b""
while True:
    ready, _, _ = select.select([notify, sys.stdin], [], [])
    if notify in ready:
        hear()
    if sys.stdin in ready:
        more = os.read(0, 4096)
        orders += more
        while b"\n" in orders or not more:
            order, _, orders = orders.partition(b"\n")
            if order.startswith(b"restart"):
                end(main, signal.SIGUSR2)
                main = start(order.decode().split()[1:])
            elif order == b"crash":
                end(main, signal.SIGKILL)
                main = start()
            else:
                end(main, signal.SIGTERM)
                sys.exit(main.returncode)
