#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "vd_court_kit.h"
#include "vd_map.h"
#include "vd_merkle.h"
#include "vd_rng.h"

enum { KEYS = 300 };

/* A node store over the kit's state in memory. */
static bool get(void *ctx, struct vd_bytes key, struct vd_bytes *value)
{
    struct kit_state *s = ctx;
    if (!kit_get(&s->kv, key, value))
        *value = (struct vd_bytes){NULL, 0};
    return true;
}
static bool put(void *ctx, struct vd_bytes key, struct vd_bytes value)
{
    return kit_set(ctx, key, value);
}
static bool del(void *ctx, struct vd_bytes key)
{
    return kit_set(ctx, key, (struct vd_bytes){NULL, 0});
}

static struct kit_state store;
static struct vd_map_nodes nodes = {get, put, del, &store};

/* The definition, written as it is: the root of the sorted leaves [from, to) that share `depth` bits. */
struct leaf {
    struct vd_hash key, value;
};
static struct vd_hash naive_root(const struct leaf *l, size_t n, unsigned depth)
{
    struct vd_hash zero = {{0}}, h;
    if (n == 0)
        return zero;
    if (n == 1) {
        struct vd_sha256 s;
        vd_sha256_init(&s);
        vd_sha256_update(&s, "\0", 1);
        vd_sha256_update(&s, "veridem/map", 12);
        vd_sha256_hash(&s, &l->key);
        vd_sha256_hash(&s, &l->value);
        vd_sha256_final(&s, &h);
        return h;
    }
    size_t left = 0;
    while (left < n && (l[left].key.b[depth / 8] >> (7 - depth % 8) & 1) == 0)
        left++;
    struct vd_hash a = naive_root(l, left, depth + 1), b = naive_root(l + left, n - left, depth + 1);
    return vd_merkle_node(&a, &b);
}

static int leaf_cmp(const void *a, const void *b)
{
    return memcmp(a, b, VD_HASH_BYTES);
}

static struct vd_hash key_of(uint64_t i)
{
    uint8_t b[8];
    vd_le64_store(b, i);
    struct vd_hash h = vd_sha256_of(b, 8);
    if (i % 5 == 0) /* some that share many bits: long chains */
        memset(h.b, 0xc3, 20);
    return h;
}

static void check_root(const struct vd_hash *root, const bool *live, const struct vd_hash *value)
{
    static struct leaf l[KEYS];
    size_t n = 0;
    for (uint64_t i = 0; i < KEYS; i++)
        if (live[i])
            l[n++] = (struct leaf){key_of(i), value[i]};
    qsort(l, n, sizeof l[0], leaf_cmp);
    struct vd_hash want = naive_root(l, n, 0), stored;
    assert_memory_equal(root->b, want.b, VD_HASH_BYTES);
    assert_true(vd_map_root(&nodes, &stored));
    assert_memory_equal(stored.b, want.b, VD_HASH_BYTES);
}

static void test_root_is_a_function_of_the_set(void **state)
{
    static struct vd_map_change c[KEYS];
    static bool live[KEYS];
    static struct vd_hash value[KEYS];
    struct vd_rng rng = {1, 0};
    struct vd_hash root;
    kit_state_init(&store);
    memset(live, 0, sizeof live);
    for (int round = 0; round < 200; round++) {
        size_t n = 0;
        uint64_t density = 1 + vd_rng_below(&rng, 40), deletes = vd_rng_below(&rng, 5);
        for (uint64_t i = 0; i < KEYS; i++) {
            if (vd_rng_below(&rng, 40) >= density)
                continue;
            bool deleted = vd_rng_below(&rng, 4) < deletes;
            value[i] = vd_sha256_of(&rng, sizeof rng);
            c[n++] = (struct vd_map_change){key_of(i), value[i], deleted};
            live[i] = !deleted;
        }
        assert_true(vd_map_update(&nodes, c, n, &root));
        check_root(&root, live, value);
    }
    for (uint64_t i = 0; i < KEYS; i++)
        c[i] = (struct vd_map_change){.key_hash = key_of(i), .deleted = true};
    assert_true(vd_map_update(&nodes, c, KEYS, &root));
    assert_true(vd_hash_is_zero(&root));
    assert_int_equal(store.n, 0); /* no node is left behind */
    kit_state_free(&store);
}

static void test_proofs(void **state)
{
    static struct vd_map_change c[KEYS];
    static struct vd_map_proof p, q;
    static uint8_t buf[VD_MAP_PROOF_MAX_BYTES];
    struct vd_hash root, value, other = {{1}};
    kit_state_init(&store);
    struct vd_hash absent_in_empty = key_of(1);
    assert_true(vd_map_root(&nodes, &root));
    assert_true(vd_map_prove(&nodes, &absent_in_empty, &p));
    assert_int_equal(vd_map_verify(&root, &absent_in_empty, &p, &value), VD_MAP_ABSENT);
    for (uint64_t i = 0; i < KEYS; i++)
        c[i] = (struct vd_map_change){key_of(i), key_of(1000 + i), false};
    assert_true(vd_map_update(&nodes, c, KEYS, &root));
    for (uint64_t i = 0; i < 2 * KEYS; i++) {
        struct vd_hash key = key_of(i), want = key_of(1000 + i);
        assert_true(vd_map_prove(&nodes, &key, &p));
        size_t n = vd_map_proof_encode(&p, buf, sizeof buf);
        assert_true(n > 0 && vd_map_proof_decode((struct vd_bytes){buf, n}, &q));
        assert_memory_equal(&p, &q, sizeof p);
        enum vd_map_verdict v = vd_map_verify(&root, &key, &q, &value);
        assert_int_equal(v, i < KEYS ? VD_MAP_PRESENT : VD_MAP_ABSENT);
        assert_true(i >= KEYS || vd_hash_eq(&value, &want));
        assert_int_equal(vd_map_verify(&other, &key, &q, &value), VD_MAP_BAD_PROOF);
        /* Nothing that was changed proves anything. */
        if (q.has_leaf) {
            q.leaf_value_hash.b[0] ^= 1;
            assert_int_equal(vd_map_verify(&root, &key, &q, &value), VD_MAP_BAD_PROOF);
            q.leaf_value_hash.b[0] ^= 1;
            q.has_leaf = false;
            assert_int_equal(vd_map_verify(&root, &key, &q, &value), VD_MAP_BAD_PROOF);
            q.has_leaf = true;
        }
        q.sibling[i % q.n_siblings].b[3] ^= 1;
        assert_int_equal(vd_map_verify(&root, &key, &q, &value), VD_MAP_BAD_PROOF);
    }
    kit_state_free(&store);
}

/* A proof that key a is there says nothing about the absence of key b that stands elsewhere. */
static void test_a_leaf_off_the_path_proves_no_absence(void **state)
{
    static struct vd_map_change c[KEYS];
    static struct vd_map_proof p;
    struct vd_hash root, value;
    kit_state_init(&store);
    for (uint64_t i = 0; i < KEYS; i++)
        c[i] = (struct vd_map_change){key_of(i), key_of(i), false};
    assert_true(vd_map_update(&nodes, c, KEYS, &root));
    for (uint64_t i = 1; i < 50; i++) {
        struct vd_hash a = key_of(i), b = key_of(i + 1);
        assert_true(vd_map_prove(&nodes, &a, &p));
        assert_int_equal(vd_map_verify(&root, &b, &p, &value), VD_MAP_BAD_PROOF);
    }
    kit_state_free(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_root_is_a_function_of_the_set),
        cmocka_unit_test(test_proofs),
        cmocka_unit_test(test_a_leaf_off_the_path_proves_no_absence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
