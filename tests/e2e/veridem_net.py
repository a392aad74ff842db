"""A Veridem network on this machine, made of real processes: used by `make demo` and by the cross-process tests.

Everything lives in one temporary folder and listens on free loopback ports. Standard library only.
"""

import ctypes
import hashlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("VD_BUILD_DIR", ROOT / "build"))
VERIDEM = BUILD / "veridem"
CHEAT = BUILD / "tests" / "vd_cheat_worker"
FALSE_VERIFIER = BUILD / "tests" / "vd_false_verifier"
# scripts/fetch-model's names; VD_MODEL chooses another than the demo's.
FILES = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma3": "gemma-3-270m.Q4_K_M.gguf"}


def model_path(name):
    return pathlib.Path(os.environ.get("VERIDEM_HOME", pathlib.Path.home() / ".veridem")) / "models" / FILES[name]


MODEL = model_path(os.environ.get("VD_MODEL", "smollm2"))
MICRO = 1_000_000  # micro-credits in a credit


class Failed(Exception):
    """Something that the test or demo promises did not happen."""


def run(*argv, ok=(0,), text_in=None, timeout=120):
    """Runs `veridem ARGV` and returns its standard output; raises Failed on another exit status."""
    done = subprocess.run([str(VERIDEM), *map(str, argv)], input=text_in, capture_output=True, text=True, timeout=timeout)
    if done.returncode not in ok:
        raise Failed(f"veridem {' '.join(map(str, argv))}: exit {done.returncode}: {done.stderr.strip()[-800:]}")
    return done.stdout


def run_json(*argv, **kw):
    return json.loads(run(*argv, "--json", **kw))


def wait_for(what, seconds, probe, pause=0.05):
    """Polls probe() until it gives something true, and returns that. It looks once more when the time is over: this process may
    have slept meanwhile. What comes at once costs no time, so `seconds` is for a machine that is slow and busy."""
    end = time.monotonic() + seconds
    while True:
        late = time.monotonic() > end
        got = probe()
        if got:
            return got
        if late:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(pause)


LIBC = ctypes.CDLL(None)


def die_with_parent():
    """In a child: if the test itself is killed (ctest does that when the time is over), no role stays behind. Counts from the
    thread that starts it, so roles are started from the main one."""
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Role:
    """One process. Its home holds key, ports.json and log. gateways: those that it dials."""

    def __init__(self, net, name, argv, gateways=()):
        self.net, self.name, self.argv, self.gateways = net, name, [str(a) for a in argv], list(gateways)
        self.home = net.dir / name
        self.home.mkdir(mode=0o700, exist_ok=True)
        self.proc = None
        self.ports = {}

    def start(self, wait=120, dialled_by=None):
        """Until it is ready, and linked: to the gateways that are there, or if it is one, with all who dial it, or with those named
        (who has lost its stake meanwhile is not let in again)."""
        ready = self.home / "ports.json"
        ready.unlink(missing_ok=True)
        self.log = open(self.home / "log", "ab")
        self.said = {role.name: role.log_bytes() for role in (self, *self.net.roles.values())}
        self.proc = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                     env=self.net.env, start_new_session=True, preexec_fn=die_with_parent)

        def probe():
            if self.proc.poll() is not None:
                raise Failed(f"{self.name} ended with {self.proc.returncode}:\n{self.tail()}")
            try:
                ports = json.loads(ready.read_text())
            except (OSError, ValueError):
                return None
            return ports if ports.get("pid") == self.proc.pid else None

        self.ports = wait_for(f"{self.name} ready", wait, probe)
        for gateway in self.gateways:
            if gateway.alive():
                wait_for(f"{self.name} linked to {gateway.name}", wait, lambda g=gateway: self.linked(g))
        for role in self.net.roles.values() if dialled_by is None else dialled_by:
            if self in role.gateways and role.alive():
                wait_for(f"{role.name} linked again to {self.name}", wait, lambda r=role: r.linked(self))
        return self

    def linked(self, gateway):
        """Has the gateway greeted this role since both were started? Only then is it of any use to the other: a role that is ready
        has yet to dial, and after a gateway was away it waits up to 10 s before the next try."""
        since = max(self.said.get(gateway.name, 0), gateway.said[gateway.name])
        with open(gateway.home / "log", "rb") as log:
            log.seek(since)
            return any(b"a peer came" in line and self.key.encode() in line for line in log)

    def log_bytes(self):
        try:
            return (self.home / "log").stat().st_size
        except OSError:
            return 0

    def tail(self, n=1500):
        try:
            return (self.home / "log").read_text(errors="replace")[-n:]
        except OSError:
            return "(no log)"

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def freeze(self):
        """The process does nothing until go_on()."""
        self.proc.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.proc.send_signal(signal.SIGCONT)

    def stop(self, sig=signal.SIGINT, wait=90):
        """Asks the process to end and returns its exit status; kills it (and says so) if it does not."""
        if not self.alive():
            return self.proc.returncode if self.proc else 0
        self.proc.send_signal(sig)
        self.go_on()
        try:
            return self.proc.wait(wait)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise Failed(f"{self.name} did not stop within {wait} s:\n{self.tail()}")

    def kill9(self):
        self.proc.kill()
        self.proc.wait()

    def keep_ports(self):
        """From its next start on the role listens where it listens now, so that others find it again."""
        for option, port in (("--http", self.ports["http"]), ("--listen", self.ports["link"])):
            if option in self.argv:
                self.argv[self.argv.index(option) + 1] = f"127.0.0.1:{port}"

    @property
    def key(self):
        return self.ports["key"]


class Network:
    """Ledger, gateways, workers, verifier. `with Network() as net:` leaves no process and no port behind."""

    def __init__(self, params=None, keep="VERIDEM_KEEP" in os.environ):
        """keep (or $VERIDEM_KEEP set): the folder with homes and logs stays, and its path is printed."""
        self._tmp = tempfile.TemporaryDirectory(prefix="veridem-net-") if not keep else None
        self.dir = pathlib.Path(self._tmp.name if self._tmp else tempfile.mkdtemp(prefix="veridem-net-"))
        self.env = dict(os.environ, VERIDEM_HOME=str(self.dir / "cli"), VERIDEM_LOG=os.environ.get("VERIDEM_LOG", "info"))
        self.roles = {}
        self.accounts = {}
        self.params = {"block_time_ms": 100, "audit_rate_ppm": 1_000_000, "audit_window_blocks": 100,
                       "move_clock_blocks": 300, "unbonding_blocks": 600, **(params or {})}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()
        if self._tmp:
            self._tmp.cleanup()
        else:
            print(f"kept: {self.dir}")

    def stop(self):
        for role in reversed(list(self.roles.values())):
            if role.alive():
                try:
                    role.stop()
                except Failed:
                    pass

    # ---- keys and genesis ----

    def key(self, name):
        """The public key (hex) of the role or account `name`; made on first use in its home."""
        path = self.dir / name / "keys" / "role.key"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            run("key", "new", path)
        return run_json("key", "show", path)["key"]

    def genesis(self, **credits):
        """Balances by name, in credits. Keys are made as needed."""
        argv = ["ledger", "init", "--genesis", self.dir / "genesis.json"]
        for name, amount in credits.items():
            self.accounts[name] = self.key(name)
            argv += ["--account", f"{name}={self.accounts[name]}:{amount}"]
        for name, value in self.params.items():
            argv += ["--param", f"{name}={value}"]
        run(*argv)

    # ---- roles ----

    def _add(self, name, argv, gateways=()):
        self.roles[name] = Role(self, name, argv, gateways)
        return self.roles[name].start()

    def ledger(self, binary=VERIDEM, listen="127.0.0.1:0"):
        role = self._add("ledger", [binary, "ledger", "--home", self.dir / "ledger", "--genesis", self.dir / "genesis.json",
                                    "--listen", listen])
        self.ledger_addr = f"{role.key}@127.0.0.1:{role.ports['link']}"
        return role

    def gateway(self, name="gateway", escrow=100, **opts):
        role = self._add(name, [VERIDEM, "gateway", "--home", self.dir / name, "--ledger", self.ledger_addr, "--model", MODEL,
                                "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--escrow", escrow, *flags(opts)])
        role.addr = f"{role.key}@127.0.0.1:{role.ports['link']}"
        return role

    def api_key(self, name="gateway", label="demo"):
        return run("gateway", "key", "new", "--home", self.dir / name, "--label", label).split()[-1]

    def worker(self, name, gateways, binary=VERIDEM, model=MODEL, threads=1, price_in=10, price_out=30, stake=100, **opts):
        return self._add(name, [binary, "worker", "--home", self.dir / name, "--ledger", self.ledger_addr, "--gateway",
                                ",".join(g.addr for g in gateways), "--model", model, "--threads", threads,
                                "--price-in", price_in, "--price-out", price_out, "--stake", stake, *flags(opts)], gateways)

    def verifier(self, name="verifier", gateways=(), threads=1, binary=VERIDEM, **opts):
        return self._add(name, [binary, "verifier", "--home", self.dir / name, "--ledger", self.ledger_addr, "--gateway",
                                ",".join(g.addr for g in gateways), "--model", MODEL, "--threads", threads, *flags(opts)], gateways)

    # ---- looking ----

    def status(self):
        return run_json("status", "--ledger", self.ledger_addr)

    def account(self, name):
        return run_json("account", self.accounts[name], "--ledger", self.ledger_addr)


# ---- audits by hand ----


def audit_commitment(receipt, key, verdict, halves, nonce):
    h = hashlib.sha256(b"veridem/audit-commit\0" + bytes.fromhex(receipt) + bytes.fromhex(key) + verdict.to_bytes(4, "little"))
    for part in (*halves, nonce):
        h.update(part)
    return h.hexdigest()


def traps_told(gateway):
    """Receipt and halves of each trap that this gateway has planted, as it tells them."""
    told = gateway.home / "traps" / "told"
    return [line.split() for line in told.read_text().splitlines()] if told.exists() else []


def flags(opts):
    out = []
    for name, value in opts.items():
        out.append("--" + name.replace("_", "-"))
        if value is not True:
            out.append(str(value))
    return out


# ---- a small HTTP client: what curl would do ----


def request(gateway, method, path, body=None, key=None, headers=None, timeout=120):
    """Returns (status, headers, bytes)."""
    conn = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=timeout)
    head = {"Content-Type": "application/json", **(headers or {})}
    if key:
        head["Authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    try:
        conn.request(method, path, data, head)
        answer = conn.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        conn.close()


def stream_chat(gateway, key, body, timeout=120):
    """Yields the decoded chunks of a streamed chat completion, as they arrive."""
    conn = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=timeout)
    conn.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}),
                 {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
    answer = conn.getresponse()
    if answer.status != 200:
        raise Failed(f"HTTP {answer.status}: {answer.read()[:500]!r}")
    try:
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[6:])
    finally:
        conn.close()
