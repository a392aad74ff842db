/* The messages between roles: the type byte of a link's frame (vd_link.h) and the canonical protobuf body
 * (vd_pb.h). docs/spec/wire.md is the normative text, proto/veridem.proto the schema.
 *
 * Every message has a struct, a `put` that appends its encoding to a writer (false when the writer's buffer
 * is too small, or a field is beyond its limit), and a `get` that accepts exactly what `put` writes (false:
 * the peer sent something malformed; close the link). Signatures and hashes inside are not looked at here.
 *
 * Ownership: after `get`, struct vd_bytes and strings point into the body, token ids into the arena, which
 * must have 4 bytes per body byte, + 4, free. Nothing is allocated. Thread rule: pure functions of their
 * arguments. */
#ifndef VD_WIRE_H
#define VD_WIRE_H

#include "vd_amount.h"
#include "vd_arena.h"
#include "vd_key.h"
#include "vd_pb.h"
#include "vd_receipt.h"
#include "vd_sha256.h"

/* Frame types. 0 to 15 belong to the link itself and mean the same in every version of the protocol. */
enum vd_wire_type {
    VD_WIRE_BYE = 0,  /* the last frame: why the link ends (vd_link sends and reads it) */
    VD_WIRE_PING = 1, /* vd_link answers it by itself */
    VD_WIRE_PONG = 2,
    VD_WIRE_HELLO = 16,      /* both sides, first frame */
    VD_WIRE_JOB = 32,        /* gateway -> worker */
    VD_WIRE_TOKEN = 33,      /* worker -> gateway */
    VD_WIRE_RECEIPT = 34,    /* worker -> gateway */
    VD_WIRE_ACCEPT = 35,     /* gateway -> worker */
    VD_WIRE_CANCEL = 36,     /* gateway -> worker */
    VD_WIRE_REFUSE = 37,     /* either: a job, receipt or query that is not served */
    VD_WIRE_PREFIX = 38,     /* worker -> gateway: a signed statement about the tokens so far */
    VD_WIRE_AUDIT_GET = 48,  /* verifier -> gateway */
    VD_WIRE_AUDIT_DATA = 49, /* gateway -> verifier */
    VD_WIRE_SUBMIT = 64,     /* any role -> ledger */
    VD_WIRE_RESULT = 65,     /* ledger -> role, after the block is durable */
    VD_WIRE_QUERY = 66,
    VD_WIRE_VALUE = 67,
    VD_WIRE_SUBSCRIBE = 68,
    VD_WIRE_BLOCK = 69,
};

enum {
    VD_WIRE_BODY_MAX = 1 << 20, /* of any frame; a link ends on a longer one */
    VD_WIRE_TEXT_MAX = 256,     /* bytes of a text for people: printable UTF-8, no NUL */
    VD_WIRE_OFFERS_MAX = 64,
    VD_WIRE_TOKENS_MAX = 1 << 17, /* token ids of one list: the largest context */
    VD_WIRE_TX_MAX = 128 << 10,   /* signed transaction bytes (the ledger's limit) */
    VD_WIRE_KEY_MAX = 512,        /* a query's key */
    VD_WIRE_ITEMS_MAX = 1024,     /* items of one VALUE, events of one BLOCK frame */
    VD_WIRE_ITEM_MAX = 960 << 10, /* bytes of one item */
};

enum vd_wire_role {
    VD_ROLE_LEDGER = 1,
    VD_ROLE_GATEWAY = 2,
    VD_ROLE_WORKER = 3,
    VD_ROLE_VERIFIER = 4,
    VD_ROLE_CLIENT = 5
};
const char *vd_wire_role_name(enum vd_wire_role role);

struct vd_wire_tokens {
    const uint32_t *v;
    size_t n;
};

struct vd_wire_bye {
    uint32_t code;        /* enum vd_err as a number; an unknown one reads as VD_ENET */
    struct vd_bytes text; /* <= VD_WIRE_TEXT_MAX */
};
bool vd_wire_put_bye(struct vd_pb_writer *w, const struct vd_wire_bye *m);
bool vd_wire_get_bye(struct vd_wire_bye *m, struct vd_bytes body);

struct vd_wire_ping { /* also PONG: the same nonce */
    uint64_t nonce;
};
bool vd_wire_put_ping(struct vd_pb_writer *w, const struct vd_wire_ping *m);
bool vd_wire_get_ping(struct vd_wire_ping *m, struct vd_bytes body);

/* What a worker sells: jobs at once, prices per token, positions of context. */
struct vd_wire_offer {
    struct vd_hash model_root;
    uint32_t capacity;
    struct vd_amount price_in, price_out;
    uint32_t context_tok;
};
struct vd_wire_hello {
    enum vd_wire_role role;
    struct vd_bytes software; /* "veridem 0.1.0"; for people */
    uint32_t arithmetic;      /* of the sender's software; a worker's must be the gateway's */
    struct vd_hash genesis;   /* the network; another one ends the link */
    uint64_t height;          /* the sender's latest durable block, 0 when it does not follow the chain */
    size_t n_offers;          /* worker only */
    struct vd_wire_offer offer[VD_WIRE_OFFERS_MAX];
};
bool vd_wire_put_hello(struct vd_pb_writer *w, const struct vd_wire_hello *m);
bool vd_wire_get_hello(struct vd_wire_hello *m, struct vd_bytes body);

/* A job: the request names model, sampling, limits and price; the ids must hash to its prompt root. `resume`
 * are tokens that an earlier worker gave for the same prompt: the output begins with them. The worker checks
 * that they are its own answer, does not send them again (its first TOKEN has index resume.n) and its receipt
 * covers all. */
struct vd_wire_job {
    struct vd_bytes request; /* canonical bytes; job id = H(request) */
    struct vd_sig request_sig;
    struct vd_hash salt; /* job salt */
    struct vd_wire_tokens prompt, resume;
    /* Whose prompts share the worker's prefix cache with this one: the same for two jobs of one client, and
     * nothing can be read off it. Zeros: the job uses no cache and leaves nothing in it. */
    struct vd_hash account;
    struct vd_controls controls; /* the tables that the request names */
    uint32_t logprobs;           /* 0: none; else 1 + how many of the likeliest tokens with each one */
};
bool vd_wire_put_job(struct vd_pb_writer *w, const struct vd_wire_job *m);
bool vd_wire_get_job(struct vd_wire_job *m, struct vd_bytes body, struct vd_arena *arena);

struct vd_wire_token {
    struct vd_hash job;
    uint32_t index; /* in the output, of ids[0] */
    struct vd_wire_tokens ids;
    struct vd_bytes logprobs; /* per id: u32 bits of its logprob, u8 n, n x (u32 id, u32 bits); or empty */
};
enum {
    VD_WIRE_LOGPROBS_MAX = 20, /* of the likeliest tokens */
    VD_WIRE_LOGPROB_MAX_BYTES = 5 + 8 * VD_WIRE_LOGPROBS_MAX,
};
bool vd_wire_put_token(struct vd_pb_writer *w, const struct vd_wire_token *m);
bool vd_wire_get_token(struct vd_wire_token *m, struct vd_bytes body, struct vd_arena *arena);

struct vd_wire_receipt {
    struct vd_hash job;
    struct vd_bytes receipt; /* canonical bytes; receipt id = H(receipt) */
    struct vd_sig worker_sig;
};
bool vd_wire_put_receipt(struct vd_pb_writer *w, const struct vd_wire_receipt *m);
bool vd_wire_get_receipt(struct vd_wire_receipt *m, struct vd_bytes body);

struct vd_wire_prefix {
    struct vd_hash job;
    struct vd_bytes statement; /* vd_receipt_prefix_encode's bytes */
    struct vd_sig worker_sig;
};
bool vd_wire_put_prefix(struct vd_pb_writer *w, const struct vd_wire_prefix *m);
bool vd_wire_get_prefix(struct vd_wire_prefix *m, struct vd_bytes body);

struct vd_wire_accept { /* the gateway keeps the receipt durably and will settle it */
    struct vd_hash job, receipt_id;
    struct vd_sig gateway_sig;
};
bool vd_wire_put_accept(struct vd_pb_writer *w, const struct vd_wire_accept *m);
bool vd_wire_get_accept(struct vd_wire_accept *m, struct vd_bytes body);

struct vd_wire_cancel { /* stop now; the receipt covers the tokens generated so far, finish CANCELLED */
    struct vd_hash job;
};
bool vd_wire_put_cancel(struct vd_pb_writer *w, const struct vd_wire_cancel *m);
bool vd_wire_get_cancel(struct vd_wire_cancel *m, struct vd_bytes body);

/* X(code, number, may another worker succeed, text) */
#define VD_REFUSE_LIST(X)                                                                                    \
    X(VD_REFUSE_BUSY, 1, true, "at capacity")                                                                \
    X(VD_REFUSE_MODEL, 2, true, "the model is not offered here")                                             \
    X(VD_REFUSE_PRICE, 3, true, "the price is below the offer")                                              \
    X(VD_REFUSE_REQUEST, 4, true, "the request is malformed, expired or not for this worker")                \
    X(VD_REFUSE_ESCROW, 5, true, "the escrow is unknown, closed or too small")                               \
    X(VD_REFUSE_CONTEXT, 6, true, "prompt and answer do not fit the context")                                \
    X(VD_REFUSE_RESUME, 7, true, "the tokens to resume from are not this model's answer")                    \
    X(VD_REFUSE_STOPPING, 8, true, "shutting down")                                                          \
    X(VD_REFUSE_INTERNAL, 9, true, "internal failure")                                                       \
    X(VD_REFUSE_RECEIPT, 10, false, "the receipt is not valid or not expected")                              \
    X(VD_REFUSE_NOT_FOUND, 11, false, "not found")                                                           \
    X(VD_REFUSE_NOT_ALLOWED, 12, false, "not allowed for this key")                                          \
    X(VD_REFUSE_WRONG, 13, false, "what the worker sends is not what the model says")

enum vd_wire_refuse_code {
#define X(code, number, retry, text) code = number,
    VD_REFUSE_LIST(X)
#undef X
};
const char *vd_wire_refuse_text(enum vd_wire_refuse_code code);
/* May another worker succeed where this one refused? */
bool vd_wire_refuse_retry(enum vd_wire_refuse_code code);

struct vd_wire_refuse {
    struct vd_hash what; /* job id, or receipt id for AUDIT_GET */
    enum vd_wire_refuse_code code;
    struct vd_bytes text; /* details, <= VD_WIRE_TEXT_MAX; may be empty */
};
bool vd_wire_put_refuse(struct vd_pb_writer *w, const struct vd_wire_refuse *m);
bool vd_wire_get_refuse(struct vd_wire_refuse *m, struct vd_bytes body);

struct vd_wire_audit_get { /* answered by AUDIT_DATA, or REFUSE with the receipt's id */
    struct vd_hash receipt_id;
};
bool vd_wire_put_audit_get(struct vd_pb_writer *w, const struct vd_wire_audit_get *m);
bool vd_wire_get_audit_get(struct vd_wire_audit_get *m, struct vd_bytes body);

struct vd_wire_audit_data {
    struct vd_hash receipt_id;
    struct vd_bytes envelope; /* receipt, both signatures, salt, prompt and output ids (src/receipt) */
};
bool vd_wire_put_audit_data(struct vd_pb_writer *w, const struct vd_wire_audit_data *m);
bool vd_wire_get_audit_data(struct vd_wire_audit_data *m, struct vd_bytes body);

/* To the ledger. `tag` is the asker's own number; the answer repeats it. */
struct vd_wire_submit {
    uint64_t tag;
    struct vd_bytes tx; /* signed transaction; its id makes a second submission harmless */
};
bool vd_wire_put_submit(struct vd_pb_writer *w, const struct vd_wire_submit *m);
bool vd_wire_get_submit(struct vd_wire_submit *m, struct vd_bytes body);

struct vd_wire_result { /* sent once the block that holds the transaction is durable, or it was refused */
    uint64_t tag;
    struct vd_hash tx_id;
    uint32_t code; /* the ledger's verdict on the transaction, 0: applied */
    uint64_t height;
    struct vd_bytes text;
};
bool vd_wire_put_result(struct vd_pb_writer *w, const struct vd_wire_result *m);
bool vd_wire_get_result(struct vd_wire_result *m, struct vd_bytes body);

/* X(code, number, key, items of the answer) Questions to the latest durable state. Integers in keys and items
 * are little-endian, unless they are part of a key of the ledger's state (vd_state.h). */
#define VD_QUERY_LIST(X)                                                                                     \
    X(VD_QUERY_GET, 1, "whole key of a state record", "its value; none: not there")                          \
    X(VD_QUERY_LIST_PREFIX, 2, "beginning of keys", "key, value, key, value, ... in order, after `after`")   \
    X(VD_QUERY_STATUS, 3, "", "u64 time_ms; block hash; state root; u32 health (enum vd_err); its text")     \
    X(VD_QUERY_GENESIS, 4, "", "canonical genesis bytes")                                                    \
    X(VD_QUERY_BLOCK, 5, "u64 height, u32 offset", "u32 size of the block; its bytes from the offset on")

enum vd_query_kind {
#define X(code, number, key, items) code = number,
    VD_QUERY_LIST(X)
#undef X
};

struct vd_wire_query {
    uint64_t tag;
    uint32_t kind;         /* enum vd_query_kind; an unknown one is answered VD_EUNSUPPORTED */
    struct vd_bytes key;   /* <= VD_WIRE_KEY_MAX */
    struct vd_bytes after; /* LIST_PREFIX: the last key already seen; empty: from the first */
    uint32_t limit;        /* LIST_PREFIX: at most so many records; 0: as many as fit */
};
bool vd_wire_put_query(struct vd_pb_writer *w, const struct vd_wire_query *m);
bool vd_wire_get_query(struct vd_wire_query *m, struct vd_bytes body);

struct vd_wire_value {
    uint64_t tag;
    uint32_t status; /* 0 answered (no item: not found), else enum vd_err as a number */
    uint64_t height; /* the state that was asked */
    size_t n_items;
    struct vd_bytes item[VD_WIRE_ITEMS_MAX];
};
bool vd_wire_put_value(struct vd_pb_writer *w, const struct vd_wire_value *m);
bool vd_wire_get_value(struct vd_wire_value *m, struct vd_bytes body);

struct vd_wire_subscribe { /* BLOCK for every block from this height on, then as they come; 0: only new ones
                            */
    uint64_t from_height;
};
bool vd_wire_put_subscribe(struct vd_pb_writer *w, const struct vd_wire_subscribe *m);
bool vd_wire_get_subscribe(struct vd_wire_subscribe *m, struct vd_bytes body);

struct vd_wire_block {
    uint64_t height, time_ms;
    struct vd_hash hash; /* of the block */
    uint32_t more;       /* 1: further events of this block follow in the next frame */
    size_t n_events;
    struct vd_bytes event[VD_WIRE_ITEMS_MAX]; /* the ledger's events, its encoding */
};
bool vd_wire_put_block(struct vd_pb_writer *w, const struct vd_wire_block *m);
bool vd_wire_get_block(struct vd_wire_block *m, struct vd_bytes body);

#endif
