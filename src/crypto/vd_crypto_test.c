#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "vd_bytes.h"
#include "vd_key.h"
#include "vd_merkle.h"
#include "vd_rng.h"

static void assert_hash(struct vd_hash h, const char *hex)
{
    char text[65];
    vd_hex_encode(text, h.b, 32);
    assert_string_equal(text, hex);
}

/* FIPS 180-4 example, RFC 4231 test cases 2 and 6. */
static void test_sha256(void **state)
{
    uint8_t long_key[131];
    (void)state;
    assert_hash(vd_sha256_of("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_hash(vd_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(long_key, 0xaa, sizeof long_key);
    assert_hash(vd_hmac_sha256(long_key, 131, "Test Using Larger Than Block-Size Key - Hash Key First", 54),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

/* Every number of messages of every length around the blocks' ends. */
static void test_sha256_many(void **state)
{
    static uint8_t bytes[40 * 211];
    struct vd_hash many[40];
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * i >> 3);
    for (size_t n_bytes = 0; n_bytes <= 210; n_bytes++)
        for (size_t n = 0; n <= 40; n += n_bytes % 5 + 1) {
            vd_sha256_many(bytes, 211, n_bytes, n, many);
            for (size_t i = 0; i < n; i++) {
                struct vd_hash one = vd_sha256_of(bytes + 211 * i, n_bytes);
                assert_memory_equal(&many[i], &one, sizeof one);
            }
        }
}

/* The eight leaves and the roots of the reference implementation of Certificate Transparency (RFC 6962). */
static void test_merkle_vectors(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
    } in[8] = {{"", 0},
               {"\x00", 1},
               {"\x10", 1},
               {"\x20\x21", 2},
               {"\x30\x31", 2},
               {"\x40\x41\x42\x43", 4},
               {"\x50\x51\x52\x53\x54\x55\x56\x57", 8},
               {"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f", 16}};
    static const char *const root[9] = {"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                                        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                                        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
                                        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
                                        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                                        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
                                        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
                                        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
                                        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};
    struct vd_hash leaf[8];
    (void)state;
    for (size_t i = 0; i < 8; i++)
        leaf[i] = vd_merkle_leaf(in[i].bytes, in[i].n);
    for (size_t n = 0; n <= 8; n++)
        assert_hash(vd_merkle_root(leaf, n), root[n]);
}

static void leaves(struct vd_hash *leaf, size_t n)
{
    for (size_t i = 0; i < n; i++)
        leaf[i] = vd_merkle_leaf(&i, sizeof i);
}

/* Leaves in portions of any size make the tree that they make one by one. */
static void test_merkle_portions(void **state)
{
    struct vd_hash leaf[300];
    (void)state;
    leaves(leaf, 300);
    for (size_t n = 1; n <= 300; n++) {
        struct vd_merkle_stream one, some;
        vd_merkle_stream_init(&one);
        vd_merkle_stream_init(&some);
        for (size_t i = 0; i < n; i++)
            vd_merkle_stream_add(&one, &leaf[i]);
        for (size_t i = 0, k; i < n; i += k) {
            k = 1 + (i * 7 + n) % 97;
            k = k < n - i ? k : n - i;
            vd_merkle_stream_add_all(&some, leaf + i, k);
        }
        struct vd_hash a = vd_merkle_stream_root(&one), b = vd_merkle_stream_root(&some);
        assert_memory_equal(&a, &b, sizeof a);
        b = vd_merkle_root(leaf, n);
        assert_memory_equal(&a, &b, sizeof a);
    }
}

static void test_merkle_many_trees(void **state)
{
    enum { LEAVES = 40, TREES = 70 };
    struct vd_hash *leaf = malloc(LEAVES * TREES * sizeof *leaf), *h = malloc(LEAVES * TREES * sizeof *h);
    (void)state;
    for (size_t n_trees = 1; n_trees <= TREES; n_trees += 1 + n_trees / 2)
        for (size_t n = 1; n <= LEAVES; n++) {
            leaves(leaf, n * n_trees);
            for (size_t i = 0; i < n_trees; i++)
                for (size_t k = 0; k < n; k++)
                    h[k * n_trees + i] = leaf[i * n + k];
            vd_merkle_roots(h, n, n_trees);
            for (size_t i = 0; i < n_trees; i++) {
                struct vd_hash want = vd_merkle_root(leaf + i * n, n);
                assert_memory_equal(&h[i], &want, sizeof want);
            }
        }
    free(leaf);
    free(h);
}

static void test_merkle_ranges(void **state)
{
    struct vd_hash leaf[40], proof[64];
    (void)state;
    leaves(leaf, 40);
    for (size_t n = 1; n <= 40; n++) {
        struct vd_hash root = vd_merkle_root(leaf, n);
        for (size_t first = 0; first < n; first++)
            for (size_t count = 1; first + count <= n; count++) {
                size_t k = vd_merkle_range_proof_len(n, first, count);
                vd_merkle_range_prove(leaf, n, first, count, proof);
                struct vd_hash got = vd_merkle_range_root(n, first, count, leaf + first, proof);
                assert_memory_equal(&got, &root, sizeof root);
                struct vd_hash bad[40];
                memcpy(bad, leaf + first, count * sizeof *leaf);
                bad[(n + first) % count].b[3] ^= 1;
                got = vd_merkle_range_root(n, first, count, bad, proof);
                assert_memory_not_equal(&got, &root, sizeof root);
                if (k) {
                    proof[(first + count) % k].b[0] ^= 1;
                    got = vd_merkle_range_root(n, first, count, leaf + first, proof);
                    assert_memory_not_equal(&got, &root, sizeof root);
                }
            }
    }
}

static void test_merkle_descent(void **state)
{
    struct vd_hash leaf[300], node[64];
    struct vd_merkle_span span[64];
    (void)state;
    leaves(leaf, 300);
    for (uint64_t n = 1; n <= 300; n++)
        for (unsigned levels = 0; levels <= 5; levels++) {
            size_t k = vd_merkle_spans((struct vd_merkle_span){0, n}, levels, span, 64);
            uint64_t at = 0;
            assert_true(k <= (size_t)1 << levels);
            for (size_t i = 0; i < k; i++) {
                assert_true(span[i].first == at && span[i].count >= 1);
                at += span[i].count;
                node[i] = vd_merkle_root(leaf + span[i].first, span[i].count);
            }
            assert_true(at == n);
            struct vd_hash got = vd_merkle_spans_root((struct vd_merkle_span){0, n}, levels, node, k);
            struct vd_hash want = vd_merkle_root(leaf, n);
            assert_memory_equal(&got, &want, sizeof got);
        }
}

/* RFC 8032's key of test 1, and our own domain separation on top. */
static void test_sign(void **state)
{
    uint8_t seed[32];
    struct vd_keypair k;
    struct vd_sig sig;
    char text[65];
    (void)state;
    assert_true(vd_hex_decode(seed, 32, "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
    vd_key_from_seed(&k, seed);
    vd_hex_encode(text, k.pub.b, 32);
    assert_string_equal(text, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    vd_key_sign(&sig, &k, "tag", "hello", 5);
    assert_true(vd_key_verify(&sig, &k.pub, "tag", "hello", 5));
    assert_false(vd_key_verify(&sig, &k.pub, "tag2", "hello", 5));
    assert_false(vd_key_verify(&sig, &k.pub, "tag", "hellp", 5));
    sig.b[0] ^= 1;
    assert_false(vd_key_verify(&sig, &k.pub, "tag", "hello", 5));
}

static void test_key_file(void **state)
{
    char dir[] = "/tmp/vd_key_testXXXXXX", path[64];
    struct vd_keypair a, b;
    struct vd_error err;
    struct stat st;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/key", dir);
    assert_int_equal(vd_key_load(&a, path, false, &err), VD_ENOTFOUND);
    assert_int_equal(vd_key_load(&a, path, true, &err), VD_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(vd_key_load(&b, path, true, &err), VD_OK);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(vd_key_load(&b, path, false, &err), VD_EAUTH);
    assert_non_null(strstr(err.msg, "chmod 600"));
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(truncate(path, 64), 0);
    assert_int_equal(vd_key_load(&b, path, false, &err), VD_EFORMAT);
    unlink(path);
    snprintf(path, sizeof path, "%s/none/key", dir);
    assert_int_equal(vd_key_load(&b, path, true, &err), VD_EIO); /* no folder: nothing is made */
    assert_int_equal(rmdir(dir), 0);                             /* and no temporary file is left anywhere */
}

/* Several processes that make the same key at once all end with the one that is in the file. */
static void test_key_file_race(void **state)
{
    char dir[] = "/tmp/vd_key_testXXXXXX", path[64];
    struct vd_keypair mine, got;
    int pipes[2], status;
    enum { PROCESSES = 8 };
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/key", dir);
    assert_int_equal(pipe(pipes), 0);
    for (int i = 0; i < PROCESSES; i++)
        if (fork() == 0) {
            bool ok = vd_key_load(&mine, path, true, NULL) == VD_OK &&
                      write(pipes[1], mine.pub.b, sizeof mine.pub.b) == (ssize_t)sizeof mine.pub.b;
            _exit(ok ? 0 : 1);
        }
    for (int i = 0; i < PROCESSES; i++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    assert_int_equal(vd_key_load(&mine, path, false, NULL), VD_OK);
    for (int i = 0; i < PROCESSES; i++) {
        assert_int_equal(read(pipes[0], got.pub.b, sizeof got.pub.b), sizeof got.pub.b);
        assert_memory_equal(got.pub.b, mine.pub.b, sizeof got.pub.b);
    }
    close(pipes[0]);
    close(pipes[1]);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_sha256_many),
        cmocka_unit_test(test_merkle_vectors),
        cmocka_unit_test(test_merkle_portions),
        cmocka_unit_test(test_merkle_many_trees),
        cmocka_unit_test(test_merkle_ranges),
        cmocka_unit_test(test_merkle_descent),
        cmocka_unit_test(test_sign),
        cmocka_unit_test(test_key_file),
        cmocka_unit_test(test_key_file_race),
    };
    if (vd_key_init(NULL) != VD_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
