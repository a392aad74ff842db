/* Child processes, not threads: the network at home is then made of the very commands that a real one is made
 * of, a role that dies takes nothing with it, and memory and CPU of each can be seen with ps. What is here is
 * only the order of starting, the waiting, and the telling. */
#include "vd_up.h"

#include "vd_clock.h"
#include "vd_file.h"
#include "vd_key.h"
#include "vd_up_ports.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    VD_UP_ARGS_MAX = 32,
    VD_UP_START_MS = 60000,
    VD_UP_STOP_MS = 20000,
    VD_UP_CREDITS = 1000000, /* of each role's account in the home genesis */
    VD_UP_ESCROW = 10000,    /* that the gateway puts aside to pay workers */
};

#define VD_UP_TRAPS "2400" /* blocks: ten minutes */

enum vd_up_role { VD_UP_LEDGER, VD_UP_GATEWAY, VD_UP_WORKER, VD_UP_VERIFIER, VD_UP_ROLES };
static const char *const vd_up_name[VD_UP_ROLES] = {"ledger", "gateway", "worker", "verifier"};

struct vd_up {
    const struct vd_up_config *config;
    sigset_t signals;
    struct {
        pid_t pid; /* 0: not running */
        char home[VD_PATH_MAX], log[VD_PATH_MAX];
        struct vd_ports ports;
        struct vd_pubkey key;
    } role[VD_UP_ROLES];
    char address[VD_UP_ROLES][128]; /* key@host:port of ledger and gateway */
    char api_key[256];
};

static enum vd_err vd_up_path(char out[VD_PATH_MAX], const struct vd_up *u, const char *rest,
                              struct vd_error *err)
{
    if (snprintf(out, VD_PATH_MAX, "%s/%s", u->config->home, rest) >= VD_PATH_MAX)
        return vd_error_set(err, VD_ELIMIT, "the path of the home folder is too long: %.200s",
                            u->config->home);
    return VD_OK;
}

/* ---- Children ---- */

/* Starts the program with `arg` (NULL-terminated; arg[0] is filled in); its output goes to `log`, or to
 * *pipe_fd if that is not NULL. */
static enum vd_err vd_up_spawn(const struct vd_up *u, const char **arg, const char *log, int *pipe_fd,
                               pid_t *pid, struct vd_error *err)
{
    int fds[2] = {-1, -1}, log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pid_t parent = getpid();
    if (log_fd < 0)
        return vd_error_set(err, VD_EIO, "%s: %s", log, strerror(errno));
    if (pipe_fd && pipe2(fds, O_CLOEXEC) != 0) {
        close(log_fd);
        return vd_error_set(err, VD_EIO, "a pipe: %s", strerror(errno));
    }
    arg[0] = u->config->program;
    *pid = fork();
    if (*pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        setpgid(0, 0); /* Ctrl-C reaches this process only; it stops the children in order */
        if (getppid() != parent)
            _exit(3);
        dup2(pipe_fd ? fds[1] : log_fd, STDOUT_FILENO);
        dup2(log_fd, STDERR_FILENO);
        execv(u->config->program, (char *const *)arg);
        dprintf(STDERR_FILENO, "%s: %s\n", u->config->program, strerror(errno));
        _exit(3);
    }
    close(log_fd);
    if (pipe_fd) {
        close(fds[1]);
        *pipe_fd = fds[0];
    }
    if (*pid < 0) {
        if (pipe_fd)
            close(fds[0]);
        *pid = 0;
        return vd_error_set(err, VD_EAGAIN, "starting a process: %s", strerror(errno));
    }
    return VD_OK;
}

/* The last line of a log: what a role that ended said why. */
static void vd_up_last_line(const char *log, char out[256])
{
    char buf[2048];
    snprintf(out, 256, "no reason given; see %.200s", log);
    FILE *f = fopen(log, "re");
    if (!f)
        return;
    if (fseek(f, 0, SEEK_END) == 0) {
        long size = ftell(f);
        long from = size > (long)sizeof buf - 1 ? size - (long)sizeof buf + 1 : 0;
        if (fseek(f, from, SEEK_SET) == 0) {
            size_t n = fread(buf, 1, sizeof buf - 1, f);
            while (n && (buf[n - 1] == '\n' || buf[n - 1] == ' '))
                n--;
            buf[n] = 0;
            const char *line = strrchr(buf, '\n');
            if (n)
                snprintf(out, 256, "%.255s", line ? line + 1 : buf);
        }
    }
    fclose(f);
}

/* Reaps; an error names the first role that has ended by itself. */
static enum vd_err vd_up_check_children(struct vd_up *u, struct vd_error *err)
{
    for (int r = 0; r < VD_UP_ROLES; r++) {
        int status;
        if (!u->role[r].pid || waitpid(u->role[r].pid, &status, WNOHANG) != u->role[r].pid)
            continue;
        char why[256];
        u->role[r].pid = 0;
        if (WIFSIGNALED(status))
            return vd_error_set(err, VD_EIO, "the %s was killed by signal %d (%s); its log is %.300s",
                                vd_up_name[r], WTERMSIG(status), strsignal(WTERMSIG(status)), u->role[r].log);
        vd_up_last_line(u->role[r].log, why);
        bool port = strstr(why, "in use") && r == VD_UP_GATEWAY;
        return vd_error_set(err, WIFEXITED(status) && WEXITSTATUS(status) == 70 ? VD_EINTERNAL : VD_EIO,
                            "the %s has ended: %s%s", vd_up_name[r], why,
                            port ? "; --http HOST:PORT chooses another" : "");
    }
    return VD_OK;
}

/* Waits at most timeout_ms for SIGINT or SIGTERM (true), or until a child changed (false). */
static bool vd_up_wait_signal(struct vd_up *u, uint64_t timeout_ms)
{
    struct timespec t = {(time_t)(timeout_ms / 1000), (long)(timeout_ms % 1000) * 1000000};
    int sig = sigtimedwait(&u->signals, NULL, &t);
    return sig == SIGINT || sig == SIGTERM;
}

/* Starts a role and waits until it has written its ports.json. */
static enum vd_err vd_up_start(struct vd_up *u, enum vd_up_role r, const char **arg, struct vd_error *err)
{
    uint64_t until = vd_clock_ms() + VD_UP_START_MS;
    vd_ports_remove(u->role[r].home);
    enum vd_err e = vd_up_spawn(u, arg, u->role[r].log, NULL, &u->role[r].pid, err);
    while (e == VD_OK) {
        struct vd_error none;
        if (vd_ports_read(u->role[r].home, &u->role[r].ports, &none) == VD_OK &&
            u->role[r].ports.pid == u->role[r].pid)
            return VD_OK;
        if (vd_up_wait_signal(u, 50))
            return vd_error_set(err, VD_ECANCELLED, "stopped while the %s was starting", vd_up_name[r]);
        e = vd_up_check_children(u, err);
        if (e == VD_OK && vd_clock_ms() > until)
            e = vd_error_set(err, VD_ETIMEOUT, "the %s was not ready after %d s; its log is %.300s",
                             vd_up_name[r], VD_UP_START_MS / 1000, u->role[r].log);
    }
    return e;
}

/* SIGTERM to all that run; SIGKILL to what is left after a while. The gateway goes first: it ends its
 * clients' answers, for which it needs the worker, and settles, for which it needs the ledger. */
static void vd_up_stop(struct vd_up *u)
{
    static const enum vd_up_role order[VD_UP_ROLES] = {VD_UP_GATEWAY, VD_UP_VERIFIER, VD_UP_WORKER,
                                                       VD_UP_LEDGER};
    for (int i = 0; i < VD_UP_ROLES; i++) {
        enum vd_up_role r = order[i];
        uint64_t until = vd_clock_ms() + VD_UP_STOP_MS;
        if (!u->role[r].pid)
            continue;
        kill(u->role[r].pid, SIGTERM);
        while (waitpid(u->role[r].pid, NULL, WNOHANG) == 0) {
            if (vd_clock_ms() > until) {
                kill(u->role[r].pid, SIGKILL);
                waitpid(u->role[r].pid, NULL, 0);
                break;
            }
            vd_clock_sleep_ms(10);
        }
        u->role[r].pid = 0;
    }
}

/* Runs a command to its end and reads its one line of JSON. */
static enum vd_err vd_up_ask(struct vd_up *u, const char **arg, json_t **out, struct vd_error *err)
{
    char log[VD_PATH_MAX], why[256], text[8192];
    size_t n = 0;
    pid_t pid = 0;
    int fd = -1, status = 0;
    enum vd_err e = vd_up_path(log, u, "log/up.log", err);
    if (e == VD_OK)
        e = vd_up_spawn(u, arg, log, &fd, &pid, err);
    if (e != VD_OK)
        return e;
    for (ssize_t got; n < sizeof text && (got = read(fd, text + n, sizeof text - n)) != 0;) {
        if (got < 0 && errno != EINTR)
            break;
        n += got > 0 ? (size_t)got : 0;
    }
    close(fd);
    waitpid(pid, &status, 0);
    *out = json_loadb(text, n, 0, NULL);
    if (*out && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return VD_OK;
    json_decref(*out);
    vd_up_last_line(log, why);
    return vd_error_set(err, VD_EIO, "`veridem %s` failed: %s", arg[1], why);
}

/* ---- First start ---- */

static enum vd_err vd_up_make_homes(struct vd_up *u, struct vd_error *err)
{
    char dir[VD_PATH_MAX], path[VD_PATH_MAX];
    enum vd_err e = vd_up_path(dir, u, "log", err);
    if (e == VD_OK)
        e = vd_dir_make(dir, err);
    for (int r = 0; e == VD_OK && r < VD_UP_ROLES; r++) {
        struct vd_keypair k;
        char rest[64];
        snprintf(rest, sizeof rest, "log/%s.log", vd_up_name[r]);
        e = vd_up_path(u->role[r].log, u, rest, err);
        if (e == VD_OK)
            e = vd_up_path(u->role[r].home, u, vd_up_name[r], err);
        snprintf(rest, sizeof rest, "%s/keys", vd_up_name[r]);
        if (e == VD_OK)
            e = vd_up_path(dir, u, rest, err);
        if (e == VD_OK)
            e = vd_dir_make(dir, err);
        snprintf(rest, sizeof rest, "%s/keys/role.key", vd_up_name[r]);
        if (e == VD_OK)
            e = vd_up_path(path, u, rest, err);
        if (e == VD_OK)
            e = vd_key_load(&k, path, true, err);
        if (e == VD_OK) {
            u->role[r].key = k.pub;
            vd_key_wipe(&k);
        }
    }
    return e;
}

static enum vd_err vd_up_make_genesis(struct vd_up *u, char path[VD_PATH_MAX], struct vd_error *err)
{
    char account[VD_UP_ROLES][128];
    /* Audits are on: the ledger keeps the beacon, the verifier is the auditor. It has five minutes for an
     * audit that was open when all this was stopped: models take their time to load. */
    const char *arg[VD_UP_ARGS_MAX] = {NULL,        "ledger",
                                       "init",      "--json",
                                       "--genesis", path,
                                       "--param",   "epoch_blocks=40",
                                       "--param",   "auditors=1",
                                       "--param",   "audit_commit_blocks=1200",
                                       "--param",   "audit_reveal_blocks=1200",
                                       "--param",   "audit_data_blocks=1200"};
    int n = 16;
    enum vd_err e = vd_up_path(path, u, "genesis.json", err);
    if (e != VD_OK || access(path, F_OK) == 0)
        return e;
    for (int r = 0; r < VD_UP_ROLES; r++) {
        char hex[65];
        vd_hex_encode(hex, u->role[r].key.b, VD_PUBKEY_BYTES);
        snprintf(account[r], sizeof account[r], "%s=%s:%d", vd_up_name[r], hex, VD_UP_CREDITS);
        arg[n++] = "--account";
        arg[n++] = account[r];
    }
    json_t *answer;
    e = vd_up_ask(u, arg, &answer, err);
    if (e == VD_OK)
        json_decref(answer);
    return e;
}

/* The API key of earlier starts, or a new one. */
static enum vd_err vd_up_make_api_key(struct vd_up *u, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    uint8_t *text;
    size_t n;
    const char *key;
    json_t *answer;
    enum vd_err e = vd_up_path(path, u, "api-key", err);
    if (e != VD_OK)
        return e;
    e = vd_file_read(&text, &n, path, sizeof u->api_key - 1, err);
    if (e == VD_OK) {
        snprintf(u->api_key, sizeof u->api_key, "%.*s", (int)strcspn((char *)text, "\r\n"), (char *)text);
        free(text);
        return VD_OK;
    }
    if (e != VD_ENOTFOUND)
        return e;
    const char *arg[VD_UP_ARGS_MAX] = {
        NULL, "gateway", "key", "new", "--home", u->role[VD_UP_GATEWAY].home, "--label", "up", "--json"};
    e = vd_up_ask(u, arg, &answer, err);
    if (e != VD_OK)
        return e;
    if (json_unpack(answer, "{s:s}", "api_key", &key) == 0 && strlen(key) < sizeof u->api_key)
        snprintf(u->api_key, sizeof u->api_key, "%s", key);
    json_decref(answer);
    return vd_file_write_atomic(path, u->api_key, strlen(u->api_key), 0600, err);
}

/* ---- Start, tell, wait ---- */

static void vd_up_set_address(struct vd_up *u, enum vd_up_role r)
{
    char hex[65];
    vd_hex_encode(hex, u->role[r].key.b, VD_PUBKEY_BYTES);
    snprintf(u->address[r], sizeof u->address[r], "%s@127.0.0.1:%u", hex, u->role[r].ports.link);
}

static enum vd_err vd_up_start_all(struct vd_up *u, struct vd_error *err)
{
    char genesis[VD_PATH_MAX], threads[16], escrow[16];
    const struct vd_up_config *c = u->config;
    snprintf(threads, sizeof threads, "%u", c->threads);
    snprintf(escrow, sizeof escrow, "%d", VD_UP_ESCROW);
    enum vd_err e = vd_up_make_homes(u, err);
    if (e == VD_OK)
        e = vd_up_make_genesis(u, genesis, err);
    if (e == VD_OK) {
        const char *arg[VD_UP_ARGS_MAX] = {NULL,        "ledger", "--home",   u->role[VD_UP_LEDGER].home,
                                           "--genesis", genesis,  "--listen", "127.0.0.1:0"};
        e = vd_up_start(u, VD_UP_LEDGER, arg, err);
    }
    vd_up_set_address(u, VD_UP_LEDGER);
    const char *ledger = u->address[VD_UP_LEDGER];
    if (e == VD_OK)
        e = vd_up_make_api_key(u, err);
    if (e == VD_OK) {
        const char *arg[VD_UP_ARGS_MAX] = {NULL,       "gateway", "--home",   u->role[VD_UP_GATEWAY].home,
                                           "--ledger", ledger,    "--model",  c->model,
                                           "--http",   c->http,   "--listen", "127.0.0.1:0",
                                           "--escrow", escrow,    "--traps",  VD_UP_TRAPS};
        e = vd_up_start(u, VD_UP_GATEWAY, arg, err);
    }
    vd_up_set_address(u, VD_UP_GATEWAY);
    const char *gateway = u->address[VD_UP_GATEWAY];
    for (enum vd_up_role r = VD_UP_WORKER; e == VD_OK && r <= VD_UP_VERIFIER; r++) {
        const char *arg[VD_UP_ARGS_MAX] = {NULL,   vd_up_name[r], "--home", u->role[r].home, "--ledger",
                                           ledger, "--gateway",   gateway,  "--model",       c->model};
        int n = 10;
        if (c->threads) {
            arg[n++] = "--threads";
            arg[n++] = threads;
        }
        if (r == VD_UP_VERIFIER)
            arg[n++] = "--audit"; /* nothing, in a network of an older start without audits */
        e = vd_up_start(u, r, arg, err);
    }
    return e;
}

static void vd_up_tell(const struct vd_up *u)
{
    const struct vd_up_config *c = u->config;
    const char *base = strrchr(c->model, '/');
    char host[256], name[256];
    snprintf(host, sizeof host, "%.*s", (int)(strrchr(c->http, ':') - c->http), c->http);
    snprintf(name, sizeof name, "%s", base ? base + 1 : c->model);
    size_t n = strlen(name);
    if (n > 5 && strcmp(name + n - 5, ".gguf") == 0)
        name[n - 5] = 0;
    unsigned port = u->role[VD_UP_GATEWAY].ports.http;
    if (c->json) {
        json_t *v = json_pack("{s:o,s:s,s:s,s:s}", "base_url", json_sprintf("http://%s:%u/v1", host, port),
                              "api_key", u->api_key, "model", name, "ledger", u->address[VD_UP_LEDGER]);
        json_dumpf(v, c->out, JSON_COMPACT);
        fputc('\n', c->out);
        json_decref(v);
    } else {
        fprintf(
            c->out,
            "Veridem is up. Point any OpenAI client at\n\n"
            "    base URL  http://%s:%u/v1\n    API key   %s\n    model     %s\n\nor try\n\n"
            "    curl http://%s:%u/v1/chat/completions -H 'Authorization: Bearer %s' \\\n"
            "         -H 'Content-Type: application/json' \\\n"
            "         -d '{\"model\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": \"What is a "
            "ledger?\"}]}'\n\n"
            "Its ledger, for `veridem status`, `account`, `receipt`, `dispute`:\n\n    --ledger %s\n\n"
            "Logs are in %s/log. Ctrl-C stops everything.\n",
            host, port, u->api_key, name, host, port, u->api_key, name, u->address[VD_UP_LEDGER], c->home);
    }
    fflush(c->out);
}

enum vd_err vd_up_run(const struct vd_up_config *config, struct vd_error *err)
{
    struct vd_lock lock;
    enum vd_err e = vd_lock_home(&lock, config->home, err);
    if (e != VD_OK)
        return e;
    struct vd_up *u = calloc(1, sizeof *u);
    if (!u) {
        vd_lock_release(&lock);
        return vd_error_set(err, VD_ENOMEM, "no memory to start");
    }
    u->config = config;
    sigemptyset(&u->signals);
    sigaddset(&u->signals, SIGINT);
    sigaddset(&u->signals, SIGTERM);
    sigaddset(&u->signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &u->signals, NULL);
    e = vd_up_start_all(u, err);
    if (e == VD_OK)
        vd_up_tell(u);
    while (e == VD_OK && !vd_up_wait_signal(u, 1000))
        e = vd_up_check_children(u, err);
    vd_up_stop(u);
    free(u);
    vd_lock_release(&lock);
    return e;
}
