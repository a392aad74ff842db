/* Data that an auditor demands on the ledger: who must show what by when, and what follows if nobody does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_audit_kit.h"
#include "vd_pb.h"

static void test_withheld_data_lose(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    uint64_t before = balance(AUDITOR), burned = bucket(VD_BUCKET_BURNED);
    REFUSED(VD_TX_NOT_DRAWN, CLIENT, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR2, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    until(audit(&j.r.id).deadline_height);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_SETTLED);
    blocks(1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_VOID);
    assert_int_equal(receipt(&j.r.id).void_why, VD_VOID_WITHHELD);
    assert_int_equal(stake(WORKER).amount.micro, STAKE - KIT_SLASH);
    /* Nobody gains by a demand. (And the keeper has not gone on.) */
    assert_int_equal(bucket(VD_BUCKET_BURNED), burned + KIT_SLASH + KIT_BEACON_BOND);
    assert_int_equal(balance(AUDITOR), before);
    assert_int_equal(stake(AUDITOR).amount.micro, STAKE);
    assert_int_equal(stake(WORKER).convicted_height, net.block.height - 1);
}

static void test_data_on_the_ledger_answer_a_demand(void **state)
{
    struct job j;
    struct vd_bytes shown;
    uint8_t bytes[16];
    drawn_job(&j, NULL);
    struct vd_tx data = data_of(&j, bytes), wrong = data;
    REFUSED(VD_TX_WRONG_PHASE, WORKER, data); /* nobody asked */
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    REFUSED(VD_TX_NOT_DRAWN, CLIENT, data);
    wrong.u.audit_data.salt.b[0] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    wrong = data;
    wrong.u.audit_data.tokens.n = 12; /* not the whole */
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    wrong = data;
    wrong.u.audit_data.first = 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    for (size_t i = 0; i < 4; i++) {
        blocks(i == 1); /* a block looks at four */
        bytes[4 * i] ^= 1;
        if (i < 3)
            REFUSED(VD_TX_BAD_DATA, GATEWAY, data);
        bytes[4 * i] ^= 1;
    }
    blocks(1);
    OK(WORKER, data);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_COMMITTING);
    assert_int_equal(audit(&j.r.id).deadline_height, net.block.height + KIT_COMMIT); /* a new clock */
    assert_memory_equal(audit(&j.r.id).shown_by.b, k.key[WORKER].pub.b, VD_PUBKEY_BYTES);
    struct vd_state_key at = vd_state_key_shown(&j.r.id, &k.key[WORKER].pub, 0);
    assert_true(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &shown));
    assert_memory_equal(shown.p, bytes, 16);
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}}); /* once */
    both_say(&j, VD_AUDIT_STANDS, VD_AUDIT_STANDS);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    assert_false(
        net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &shown)); /* no more */
}

/* The tables that a request names are data as well: nobody can replay without them. */
static void test_tables_are_shown(void **state)
{
    uint8_t bytes[16], bias[8], kept[32];
    struct vd_bytes shown;
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    vd_le32_store(bias, 1);
    vd_le32_store(bias + 4, 1000000);
    struct vd_controls c = {.bias = {bias, sizeof bias}};
    vd_request_set_controls(&j.r.value.request, &c);
    kit_seal(&k, &j.r, WORKER, GATEWAY);
    settle(&j);
    reveal_layer();
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    struct vd_tx data = data_of(&j, bytes);
    REFUSED(VD_TX_BAD_DATA, WORKER, data); /* without the table */
    data.u.audit_data.bias = c.bias;
    bias[4] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, data); /* another one */
    bias[4] ^= 1;
    OK(WORKER, data);
    struct vd_state_key at = vd_state_key_shown(&j.r.id, &k.key[WORKER].pub, UINT32_MAX);
    assert_true(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &shown));
    struct vd_pb_writer w = vd_pb_writer_init(kept, sizeof kept);
    vd_pb_put_bytes(&w, 1, bias, sizeof bias);
    assert_int_equal(shown.n, w.n_bytes);
    assert_memory_equal(shown.p, kept, shown.n);
    until(audit(&j.r.id).deadline_height + 1);
    blocks(KIT_WINDOW * 3);
    assert_false(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &shown));
}

/* A program like the kit's with room for more than a part's tokens. */
static struct vd_hash long_model(void)
{
    struct vd_program p;
    uint8_t bytes[VD_PROGRAM_BYTES_MAX];
    assert_true(vd_program_decode((struct vd_bytes){k.program, k.program_bytes}, &p));
    p.ctx = 2 * VD_AUDIT_CHUNK_TOKENS;
    size_t n = vd_program_encode(&p, bytes, sizeof bytes);
    OK(WORKER, {.kind = VD_TX_REGISTER_MODEL, .u.register_model = {{bytes, n}, k.n_tensors, k.tensors_root}});
    for (int a = AUDITOR; a <= AUDITOR2; a++) {
        struct vd_hash root =
            vd_program_model_root((struct vd_bytes){bytes, n}, k.n_tensors, &k.tensors_root);
        OK(a, {.kind = VD_TX_AUDITOR, .u.auditor = {root, true}});
    }
    return vd_program_model_root((struct vd_bytes){bytes, n}, k.n_tensors, &k.tensors_root);
}

/* What does not fit one transaction is shown in parts: in order, under one salt, tables with the first. */
static void test_data_in_parts(void **state)
{
    enum { PROMPT = VD_AUDIT_CHUNK_TOKENS + 5, ALL = PROMPT + 2 };
    static uint32_t tokens[ALL];
    static uint8_t bytes[4 * ALL];
    struct vd_hash root = long_model();
    struct vd_bytes there;
    struct job j;
    for (uint32_t i = 0; i < ALL; i++) {
        tokens[i] = i * 7;
        vd_le32_store(bytes + 4 * i, tokens[i]);
    }
    open_escrow(&j);
    make_job(&j, 1, NULL);
    struct vd_receipt *v = &j.r.value;
    v->request.model_root = root;
    v->request.n_prompt = PROMPT;
    v->request.prompt_root = vd_token_root(k.job_salt, 0, tokens, PROMPT);
    v->output_root = vd_token_root(k.job_salt, PROMPT, tokens + PROMPT, 2);
    kit_seal(&k, &j.r, WORKER, GATEWAY);
    until((first_epoch + 1) * KIT_EPOCH - 1); /* the auditors are registered a block before it ends */
    settle(&j);
    reveal_layer();
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    assert_int_equal(audit(&j.r.id).deadline_height, net.block.height + 2 * KIT_DATA);
    struct vd_tx first = {
        .kind = VD_TX_AUDIT_DATA,
        .u.audit_data = {.receipt_id = j.r.id, .tokens = {bytes, 4 * VD_AUDIT_CHUNK_TOKENS}}};
    memcpy(first.u.audit_data.salt.b, k.job_salt, VD_HASH_BYTES);
    struct vd_tx rest = first, wrong;
    rest.u.audit_data.first = VD_AUDIT_CHUNK_TOKENS;
    rest.u.audit_data.tokens =
        (struct vd_bytes){bytes + 4 * VD_AUDIT_CHUNK_TOKENS, 4 * (ALL - VD_AUDIT_CHUNK_TOKENS)};
    REFUSED(VD_TX_BAD_DATA, WORKER, rest); /* in order */
    OK(WORKER, first);
    REFUSED(VD_TX_BAD_DATA, WORKER, first); /* once */
    REFUSED(VD_TX_BAD_DATA, GATEWAY, rest); /* each for itself */
    blocks(1);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_DATA_DUE);
    wrong = rest;
    wrong.u.audit_data.bias = (struct vd_bytes){bytes, 8};
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    wrong = rest;
    wrong.u.audit_data.salt.b[0] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    bytes[4 * (ALL - 1)] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, rest);
    bytes[4 * (ALL - 1)] ^= 1;
    OK(WORKER, rest);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_COMMITTING);
    struct vd_state_key at = vd_state_key_shown(&j.r.id, &k.key[WORKER].pub, VD_AUDIT_CHUNK_TOKENS);
    assert_true(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &there));
    both_say(&j, VD_AUDIT_STANDS, VD_AUDIT_STANDS);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_false(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &there));
}

/* A vector's elements are shown as output tokens are. */
static void test_vectors_are_shown(void **state)
{
    enum { WIDTH = 32, ALL = 2 + WIDTH };
    uint32_t bits[WIDTH];
    uint8_t bytes[4 * ALL], small[16];
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    struct vd_receipt *v = &j.r.value;
    for (uint32_t i = 0; i < ALL; i++) {
        uint32_t x = i < 2 ? j.tokens[i] : 0x3e000000 + i;
        vd_le32_store(bytes + 4 * i, x);
        if (i >= 2)
            bits[i - 2] = x;
    }
    v->request.sampling = (struct vd_sampling){.pooling = VD_POOLING_LAST, .top_p_micro = VD_SAMPLE_MICRO};
    v->request.price_in.micro = AMOUNT / 2;
    v->request.price_out.micro = 0;
    v->n_output = v->request.max_tokens = WIDTH;
    v->finish = VD_FINISH_LENGTH;
    v->output_root = vd_vector_root(k.job_salt, 2, bits, WIDTH);
    v->commit_root = vd_merkle_root(j.leaf, 2);
    kit_seal(&k, &j.r, WORKER, GATEWAY);
    settle(&j);
    reveal_layer();
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    struct vd_tx data = data_of(&j, small);
    data.u.audit_data.tokens = (struct vd_bytes){bytes, sizeof bytes};
    bytes[50] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, data);
    bytes[50] ^= 1;
    OK(WORKER, data);
    assert_memory_equal(audit(&j.r.id).shown_by.b, k.key[WORKER].pub.b, VD_PUBKEY_BYTES);
}

/* A drawn job with a table that is not the model's; hash and has are the table's places in it. */
static void unfit_job(struct job *j, struct vd_hash *hash, bool *has)
{
    open_escrow(j);
    make_job(j, 1, NULL);
    memset(hash->b, 0x77, VD_HASH_BYTES);
    *has = true;
    kit_seal(&k, &j->r, WORKER, GATEWAY);
    settle(j);
    reveal_layer();
}

/* A mask for other texts than the model's: the data are there and nobody can replay the job. An auditor says
 * so, and neither gains nor loses; of a job without tables it cannot say so. */
static void test_unfit_tables_cost_no_auditor(void **state)
{
    struct job j;
    unfit_job(&j, &j.r.value.request.mask_hash, &j.r.value.request.sampling.has_mask);
    uint64_t before = balance(AUDITOR);
    both_say(&j, VD_AUDIT_UNFIT, VD_AUDIT_STANDS);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    assert_int_equal(said(&j.r.id, AUDITOR), VD_SLOT_UNFIT);
    assert_int_equal(balance(AUDITOR), before);
    assert_int_equal(stake(AUDITOR).amount.micro, STAKE);
    assert_int_equal(auditor(AUDITOR).off_height, 0);
}

/* A bias is a table as well. */
static void test_unfit_of_a_bias(void **state)
{
    struct job j;
    unfit_job(&j, &j.r.value.request.bias_hash, &j.r.value.request.sampling.has_bias);
    both_say(&j, VD_AUDIT_UNFIT, VD_AUDIT_STANDS);
}

static void test_unfit_needs_a_table(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_UNFIT), b = says(&j, AUDITOR2, VD_AUDIT_STANDS);
    both_commit(&a, &b);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_BAD_REVEAL);
}

/* Those who have the data already need not wait for those who demand them. */
static void test_all_committed_ends_a_demand(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS), b = says(&j, AUDITOR2, VD_AUDIT_STANDS);
    assert_int_equal(commit(AUDITOR2, &b), VD_TX_OK);
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    assert_int_equal(commit(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_REVEALING);
    blocks(KIT_DATA * 3);
    assert_int_equal(stake(WORKER).amount.micro, STAKE);
}

/* ---- bounds ---- */

/* Blocks that were full of other data do not count: nobody may make a worker late by showing its own. */
static void test_full_blocks_stop_the_data_clock(void **state)
{
    struct job j;
    uint8_t bytes[16];
    drawn_job(&j, NULL);
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    until(audit(&j.r.id).deadline_height);
    net.block.n_shown_bytes = VD_BLOCK_MAX_SHOWN_BYTES - sizeof bytes + 1; /* others' */
    REFUSED(VD_TX_BLOCK_FULL, WORKER, data_of(&j, bytes));
    blocks(1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_SETTLED);
    net.block.n_shown_bytes = VD_BLOCK_MAX_SHOWN_BYTES - sizeof bytes;
    OK(WORKER, data_of(&j, bytes));
    assert_int_equal(net.block.n_shown_bytes, VD_BLOCK_MAX_SHOWN_BYTES);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_COMMITTING);
}

/* Full is a block in which the largest part there may be would not have fitted, and no other. */
static void test_which_blocks_are_full(void **state)
{
    uint64_t before = net.block.totals.n_full_blocks;
    net.block.n_shown_bytes = VD_BLOCK_MAX_SHOWN_BYTES - VD_TX_MAX_BYTES;
    blocks(1);
    assert_int_equal(net.block.totals.n_full_blocks, before);
    net.block.n_shown_bytes = VD_BLOCK_MAX_SHOWN_BYTES - VD_TX_MAX_BYTES + 1;
    blocks(1);
    assert_int_equal(net.block.totals.n_full_blocks, before + 1);
}

/* Data of small jobs fill no block: it takes as many bytes as those of large ones. */
static void test_small_data_fill_no_block(void **state)
{
    enum { N = 12 };
    static struct job j[N];
    uint8_t bytes[16];
    open_escrow(&j[0]);
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{N * AMOUNT}}});
    for (int i = 0; i < N; i++) {
        j[i].escrow = j[0].escrow;
        make_job(&j[i], (uint64_t)i + 1, NULL);
        settle(&j[i]);
    }
    reveal_layer();
    for (int i = 0; i < N; i++)
        OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j[i].r.id}});
    for (int i = 0; i < N; i++)
        OK(GATEWAY, data_of(&j[i], bytes));
    assert_int_equal(net.block.n_shown_bytes, N * sizeof bytes);
    blocks(1);
    assert_int_equal(net.block.totals.n_full_blocks, 0);
}

/* Refused data take no place in a block, however many. */
static void test_refused_data_take_no_place(void **state)
{
    struct job j;
    uint8_t right[16], wrong[16];
    drawn_job(&j, NULL);
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    struct vd_tx data = data_of(&j, right), bad = data_of(&j, wrong);
    wrong[15] ^= 1;
    net.block.n_shown_bytes = VD_BLOCK_MAX_SHOWN_BYTES - sizeof right;
    for (int i = 0; i < 40; i++)
        REFUSED(VD_TX_BAD_DATA, GATEWAY, bad);
    OK(WORKER, data);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_COMMITTING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_withheld_data_lose),
        T(test_data_on_the_ledger_answer_a_demand),
        T(test_tables_are_shown),
        T(test_data_in_parts),
        T(test_vectors_are_shown),
        T(test_unfit_tables_cost_no_auditor),
        T(test_unfit_of_a_bias),
        T(test_unfit_needs_a_table),
        T(test_all_committed_ends_a_demand),
        T(test_full_blocks_stop_the_data_clock),
        T(test_which_blocks_are_full),
        T(test_small_data_fill_no_block),
        T(test_refused_data_take_no_place),
    };
    RUN_AUDIT_TESTS(tests);
}
