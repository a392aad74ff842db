/* Every decoder of vd_wire.h on the same bytes: the first byte is the frame type. What decodes must encode to
 * the very same bytes, and no input may do anything else than decode or be refused. */
#include "vd_wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static uint32_t token_memory[4 * 4096];

static void check_same(bool put_ok, const struct vd_pb_writer *w, struct vd_bytes body)
{
    if (!put_ok || w->n_bytes != body.n || (body.n && memcmp(w->p, body.p, body.n) != 0))
        abort();
}

#define TRY(type, get_call)                                                                                  \
    do {                                                                                                     \
        static struct vd_wire_##type m;                                                                      \
        if (get_call) {                                                                                      \
            bool ok = vd_wire_put_##type(&w, &m);                                                            \
            check_same(ok, &w, body);                                                                        \
        }                                                                                                    \
    } while (0)
#define PLAIN(type)  TRY(type, vd_wire_get_##type(&m, body))
#define TOKENS(type) TRY(type, vd_wire_get_##type(&m, body, &arena))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (n_bytes < 1 || n_bytes > 8192)
        return 0;
    struct vd_bytes body = {data + 1, n_bytes - 1};
    static uint8_t out[16384];
    struct vd_pb_writer w = vd_pb_writer_init(out, sizeof out);
    struct vd_arena arena = vd_arena_init(token_memory, sizeof token_memory);
    switch (data[0]) {
    case VD_WIRE_BYE:
        PLAIN(bye);
        break;
    case VD_WIRE_PING:
    case VD_WIRE_PONG:
        PLAIN(ping);
        break;
    case VD_WIRE_HELLO:
        PLAIN(hello);
        break;
    case VD_WIRE_JOB:
        TOKENS(job);
        break;
    case VD_WIRE_TOKEN:
        TOKENS(token);
        break;
    case VD_WIRE_RECEIPT:
        PLAIN(receipt);
        break;
    case VD_WIRE_PREFIX:
        PLAIN(prefix);
        break;
    case VD_WIRE_ACCEPT:
        PLAIN(accept);
        break;
    case VD_WIRE_CANCEL:
        PLAIN(cancel);
        break;
    case VD_WIRE_REFUSE:
        PLAIN(refuse);
        break;
    case VD_WIRE_AUDIT_GET:
        PLAIN(audit_get);
        break;
    case VD_WIRE_AUDIT_DATA:
        PLAIN(audit_data);
        break;
    case VD_WIRE_SUBMIT:
        PLAIN(submit);
        break;
    case VD_WIRE_RESULT:
        PLAIN(result);
        break;
    case VD_WIRE_QUERY:
        PLAIN(query);
        break;
    case VD_WIRE_VALUE:
        PLAIN(value);
        break;
    case VD_WIRE_SUBSCRIBE:
        PLAIN(subscribe);
        break;
    case VD_WIRE_BLOCK:
        PLAIN(block);
        break;
    }
    return 0;
}
