#include "vd_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>
#include <dirent.h>
#include <cmocka.h>

static char dir[64];

static const char *in_dir(char out[VD_PATH_MAX], const char *name)
{
    snprintf(out, VD_PATH_MAX, "%s/%s", dir, name);
    return out;
}

static int n_entries(void)
{
    DIR *d = opendir(dir);
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/vd_file_test-XXXXXX");
    return mkdtemp(dir) ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static void test_write_read_map(void **state)
{
    (void)state;
    char path[VD_PATH_MAX];
    struct vd_error err = {0};
    in_dir(path, "a");
    assert_int_equal(vd_file_write_atomic(path, "old", 3, 0600, &err), VD_OK);
    assert_int_equal(vd_file_write_atomic(path, "hello", 5, 0640, &err), VD_OK);
    assert_int_equal(n_entries(), 1);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);

    uint8_t *p;
    size_t n;
    assert_int_equal(vd_file_read(&p, &n, path, 5, &err), VD_OK);
    assert_int_equal(n, 5);
    assert_string_equal((char *)p, "hello");
    free(p);
    assert_int_equal(vd_file_read(&p, &n, path, 4, &err), VD_ELIMIT);
    assert_null(p);
    assert_non_null(strstr(err.msg, "has 5 bytes; the limit here is 4"));

    struct vd_map m;
    assert_int_equal(vd_map_open(&m, path, &err), VD_OK);
    assert_int_equal(m.n_bytes, 5);
    assert_memory_equal(m.p, "hello", 5);
    assert_int_equal(vd_file_write_atomic(path, "x", 1, 0600, &err), VD_OK);
    assert_memory_equal(m.p, "hello", 5); /* the map keeps the file that was replaced */
    vd_map_close(&m);
    vd_map_close(&m);

    assert_int_equal(vd_file_write_atomic(path, "", 0, 0600, &err), VD_OK);
    assert_int_equal(vd_map_open(&m, path, &err), VD_OK);
    assert_int_equal(m.n_bytes, 0);
    vd_map_close(&m);
}

static void test_errors_say_what(void **state)
{
    (void)state;
    char path[VD_PATH_MAX];
    struct vd_error err = {0};
    struct vd_map m;
    uint8_t *p;
    size_t n;
    assert_int_equal(vd_map_open(&m, in_dir(path, "none"), &err), VD_ENOTFOUND);
    assert_non_null(strstr(err.msg, path));
    assert_non_null(strstr(err.msg, "check the path"));
    assert_int_equal(vd_map_open(&m, dir, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, "is a folder"));
    assert_int_equal(vd_file_read(&p, &n, "/dev/null", 9, &err), VD_EFORMAT);
    in_dir(path, "pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(vd_file_read(&p, &n, path, 9, &err), VD_EFORMAT); /* and does not block */
    assert_int_equal(vd_file_write_atomic(in_dir(path, "no/such"), "x", 1, 0600, &err), VD_ENOTFOUND);
    assert_int_equal(vd_file_write_atomic("", "x", 1, 0600, &err), VD_EUSE);
    char *longest = malloc(5001);
    memset(longest, 'a', 5000);
    longest[5000] = 0;
    assert_int_equal(vd_map_open(&m, longest, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, "5000 bytes"));
    longest[4090] = 0;
    assert_int_equal(vd_file_write_atomic(longest, "x", 1, 0600, &err), VD_ELIMIT);
    free(longest);
}

/* A pipe that a child writes into in portions; the caller closes it. */
static int piped(size_t n, size_t portion)
{
    int end[2];
    assert_int_equal(pipe(end), 0);
    if (fork() == 0) {
        char *p = malloc(portion);
        memset(p, 'p', portion);
        for (size_t done = 0; done < n; done += portion)
            if (write(end[1], p, portion) != (ssize_t)portion)
                _exit(1);
        _exit(0);
    }
    close(end[1]);
    return end[0];
}

static void test_streams(void **state)
{
    (void)state;
    enum { N = 300000, MAX = 1 << 20 };
    char path[VD_PATH_MAX];
    struct vd_error err = {0};
    uint8_t *p;
    size_t n;
    int fd = piped(N, 1000);
    snprintf(path, sizeof path, "/dev/fd/%d", fd); /* as a shell's <(command) */
    assert_int_equal(vd_stream_read(&p, &n, path, N, &err), VD_OK);
    assert_int_equal(n, N);
    assert_true(p[0] == 'p' && p[N - 1] == 'p' && p[N] == 0);
    free(p);
    close(fd);
    fd = piped(N, 1000);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(vd_stream_read_fd(&p, &n, fd, "the pipe", N - 1, &err), VD_ELIMIT);
    assert_null(p);
    assert_non_null(strstr(err.msg, "the pipe has more than 299999 bytes, the limit here"));
    close(fd);
    assert_int_equal(vd_stream_read(&p, &n, "/dev/zero", MAX, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, "/dev/zero has more than 1048576 bytes"));
    assert_int_equal(vd_stream_read(&p, &n, "/dev/null", 0, &err), VD_OK);
    assert_true(n == 0 && p[0] == 0);
    free(p);
    assert_int_equal(vd_stream_read(&p, &n, "/proc/self/status", MAX, &err), VD_OK); /* says it has 0 bytes */
    assert_true(n > 100);
    free(p);
    assert_int_equal(vd_file_write_atomic(in_dir(path, "a"), "hello", 5, 0600, &err), VD_OK);
    assert_int_equal(vd_stream_read(&p, &n, path, 5, &err), VD_OK);
    assert_string_equal((char *)p, "hello");
    free(p);
    assert_int_equal(vd_stream_read(&p, &n, path, 4, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, "has 5 bytes; the limit here is 4"));
    assert_int_equal(vd_stream_read(&p, &n, dir, 9, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, "is a folder"));
    assert_int_equal(vd_stream_read(&p, &n, in_dir(path, "none"), 9, &err), VD_ENOTFOUND);
    assert_int_equal(vd_stream_read_fd(&p, &n, -1, "standard input", 9, &err), VD_EIO);
    assert_non_null(strstr(err.msg, "cannot read standard input"));
    while (wait(NULL) > 0)
        ;
}

/* It waits for one as long as it takes, and a signal ends the process. */
static void test_named_pipe_without_writer(void **state)
{
    (void)state;
    char path[VD_PATH_MAX];
    uint8_t *p;
    size_t n;
    int status = 0;
    assert_int_equal(mkfifo(in_dir(path, "pipe"), 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        vd_stream_read(&p, &n, path, 9, NULL);
        _exit(0);
    }
    usleep(100000);
    assert_int_equal(waitpid(child, &status, WNOHANG), 0);
    kill(child, SIGTERM);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    child = fork();
    if (child == 0) {
        usleep(50000);
        _exit(vd_file_write_atomic(path, "late", 4, 0600, NULL) == VD_OK ? 0 : 1);
    }
    assert_int_equal(vd_stream_read(&p, &n, path, 9, NULL), VD_OK);
    assert_string_equal((char *)p, "late");
    free(p);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* A process whose address space has a limit, as by `ulimit -v`. */
static void test_map_says_bytes(void **state)
{
    (void)state;
    char path[VD_PATH_MAX];
    struct vd_error err = {0};
    assert_int_equal(vd_file_write_atomic(in_dir(path, "big"), "x", 1, 0600, &err), VD_OK);
    assert_int_equal(truncate(path, 1 << 30), 0);
    pid_t child = fork();
    if (child == 0) {
        struct vd_map m;
        struct rlimit none = {1 << 20, 1 << 20};
        setrlimit(RLIMIT_AS, &none);
        _exit(vd_map_open(&m, path, &err) == VD_ENOMEM && strstr(err.msg, "1073741824 bytes") ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* What is no file is written through; a link stays a link. */
static void test_write_through(void **state)
{
    (void)state;
    char path[VD_PATH_MAX], link[VD_PATH_MAX];
    struct vd_error err = {0};
    struct stat st;
    assert_int_equal(vd_file_write_atomic("/dev/null", "x", 1, 0600, &err), VD_OK);
    assert_int_equal(vd_file_write_atomic("/dev/full", "x", 1, 0600, &err), VD_ENOSPACE);
    assert_int_equal(stat("/dev/full", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    assert_int_equal(vd_file_write_atomic(dir, "x", 1, 0600, &err), VD_EIO);
    in_dir(path, "led-to");
    in_dir(link, "link");
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(vd_file_write_atomic(link, "x", 1, 0600, &err), VD_ENOTFOUND); /* leads nowhere */
    assert_int_equal(vd_file_write_atomic(path, "old", 3, 0600, &err), VD_OK);
    assert_int_equal(vd_file_write_atomic(link, "newer", 5, 0600, &err), VD_OK);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 5);

    int before = n_entries();
    assert_int_equal(vd_file_check_writable(in_dir(path, "new"), &err), VD_OK);
    assert_int_equal(n_entries(), before);
    assert_int_equal(vd_file_check_writable(in_dir(path, "no/such"), &err), VD_ENOTFOUND);
    assert_int_equal(vd_file_check_writable("/dev/null", &err), VD_OK);
    assert_int_equal(vd_file_check_writable(dir, &err), VD_EIO);
}

/* A write that fails half-way leaves the old content and no temporary file. */
static void test_failed_write_keeps_old(void **state)
{
    (void)state;
    char path[VD_PATH_MAX];
    struct vd_error err = {0};
    in_dir(path, "b");
    assert_int_equal(vd_file_write_atomic(path, "good", 4, 0600, &err), VD_OK);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit old, small = {1000, 1000};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char big[5000] = {0};
    enum vd_err e = vd_file_write_atomic(path, big, sizeof big, 0600, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(e, VD_ENOSPACE);
    assert_non_null(strstr(err.msg, path));
    uint8_t *p;
    size_t n;
    assert_int_equal(vd_file_read(&p, &n, path, 100, &err), VD_OK);
    assert_string_equal((char *)p, "good");
    free(p);
    assert_int_equal(n_entries(), 1);
}

static void test_dirs(void **state)
{
    (void)state;
    char path[VD_PATH_MAX];
    struct vd_error err = {0};
    assert_int_equal(vd_dir_make(in_dir(path, "x/y//z/"), &err), VD_OK);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(vd_dir_make(path, &err), VD_OK);
    assert_int_equal(vd_file_write_atomic(in_dir(path, "x/f"), "x", 1, 0600, &err), VD_OK);
    assert_int_equal(vd_dir_make(path, &err), VD_EIO);
    assert_non_null(strstr(err.msg, "is a file where a folder is needed"));
    assert_int_not_equal(vd_dir_make(in_dir(path, "x/f/g"), &err), VD_OK);
}

static void test_rename(void **state)
{
    (void)state;
    char from[VD_PATH_MAX], to[VD_PATH_MAX];
    struct vd_error err = {0};
    uint8_t *text;
    size_t n;
    assert_int_equal(vd_file_write_atomic(in_dir(from, "a"), "new", 3, 0600, &err), VD_OK);
    assert_int_equal(vd_file_write_atomic(in_dir(to, "b"), "old", 3, 0600, &err), VD_OK);
    assert_int_equal(vd_file_rename(from, to, &err), VD_OK);
    assert_int_equal(n_entries(), 1);
    assert_int_equal(vd_file_read(&text, &n, to, 10, &err), VD_OK);
    assert_string_equal(text, "new");
    free(text);
    assert_int_equal(vd_file_rename(from, to, &err), VD_ENOTFOUND);
    assert_non_null(strstr(err.msg, to));
}

static void test_home(void **state)
{
    (void)state;
    char out[VD_PATH_MAX];
    struct vd_error err = {0};
    setenv("VERIDEM_HOME", "/a/b//", 1);
    assert_int_equal(vd_home(out, &err), VD_OK);
    assert_string_equal(out, "/a/b");
    assert_int_equal(vd_home_path(out, &err, "models/%s.gguf", "m"), VD_OK);
    assert_string_equal(out, "/a/b/models/m.gguf");
    setenv("VERIDEM_HOME", "relative", 1);
    assert_int_equal(vd_home(out, &err), VD_EUSE);
    assert_non_null(strstr(err.msg, "VERIDEM_HOME is relative"));
    setenv("VERIDEM_HOME", "", 1);
    setenv("HOME", "/u", 1);
    assert_int_equal(vd_home(out, &err), VD_OK);
    assert_string_equal(out, "/u/.veridem");
    unsetenv("VERIDEM_HOME");
    unsetenv("HOME");
    assert_int_equal(vd_home(out, &err), VD_EUSE);
    char *longest = malloc(5001);
    memset(longest, '/', 5000);
    longest[5000] = 0;
    setenv("VERIDEM_HOME", longest, 1);
    assert_int_equal(vd_home(out, &err), VD_ELIMIT);
    longest[4090] = 0;
    memset(longest + 1, 'a', 4089);
    setenv("VERIDEM_HOME", longest, 1);
    assert_int_equal(vd_home_path(out, &err, "models/x"), VD_ELIMIT);
    free(longest);
}

static void test_lock(void **state)
{
    (void)state;
    char home[VD_PATH_MAX], path[VD_PATH_MAX], pid[64];
    struct vd_error err = {0};
    struct vd_lock a, b;
    in_dir(home, "home");
    assert_int_equal(vd_lock_home(&a, home, &err), VD_OK);
    assert_int_equal(vd_lock_home(&b, home, &err),
                     VD_EBUSY); /* flock is per open file, so one process can see it */
    snprintf(pid, sizeof pid, "in use by process %ld;", (long)getpid());
    assert_non_null(strstr(err.msg, pid));
    assert_non_null(strstr(err.msg, home));
    assert_int_equal(vd_lock_take(&b, in_dir(path, "home/lock"), &err), VD_EBUSY);
    vd_lock_release(&b);
    vd_lock_release(&a);
    vd_lock_release(&a);

    int pipefd[2];
    char byte;
    assert_int_equal(pipe(pipefd), 0);
    pid_t child = fork();
    if (child == 0) {
        struct vd_lock c;
        byte = vd_lock_home(&c, home, NULL) == VD_OK ? 'y' : 'n';
        if (write(pipefd[1], &byte, 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(pipefd[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_int_equal(vd_lock_home(&a, home, &err), VD_EBUSY);
    snprintf(pid, sizeof pid, "process %ld;", (long)child);
    assert_non_null(strstr(err.msg, pid));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(vd_lock_home(&a, home, &err), VD_OK); /* a killed holder leaves nothing behind */
    vd_lock_release(&a);
    close(pipefd[0]);
    close(pipefd[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write_read_map, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_say_what, setup, teardown),
        cmocka_unit_test_setup_teardown(test_streams, setup, teardown),
        cmocka_unit_test_setup_teardown(test_named_pipe_without_writer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_map_says_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_through, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_write_keeps_old, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dirs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rename, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
        cmocka_unit_test(test_home),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
