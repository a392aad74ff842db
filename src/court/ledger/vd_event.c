/* Fields that are zero are left out (vd_pb), so an event of few fields is some 80 bytes. */
#include "vd_event.h"
#include "vd_pb.h"

const char *vd_event_name(enum vd_event_kind k)
{
    switch (k) {
#define X(code, number, name, meaning)                                                                       \
    case code:                                                                                               \
        return name;
        VD_EVENT_LIST(X)
#undef X
    }
    return "?";
}

static bool kind_from_number(uint64_t number, enum vd_event_kind *out)
{
    switch (number) {
#define X(code, n, name, meaning)                                                                            \
    case n:                                                                                                  \
        *out = code;                                                                                         \
        return true;
        VD_EVENT_LIST(X)
#undef X
    }
    return false;
}

size_t vd_event_encode(const struct vd_event *e, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, e->kind);
    vd_pb_put_u64(&w, 2, e->tx_index == VD_EVENT_NO_TX ? 0 : (uint64_t)e->tx_index + 1);
    vd_pb_put_opt_fixed(&w, 3, e->id.b, VD_HASH_BYTES);
    vd_pb_put_opt_fixed(&w, 4, e->id2.b, VD_HASH_BYTES);
    vd_pb_put_opt_fixed(&w, 5, e->a.b, VD_PUBKEY_BYTES);
    vd_pb_put_opt_fixed(&w, 6, e->b.b, VD_PUBKEY_BYTES);
    vd_pb_put_u64(&w, 7, e->amount.micro);
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_event_decode(struct vd_bytes in, struct vd_event *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    uint64_t kind = vd_pb_get_u64(&r, 1, UINT32_MAX);
    uint64_t index = vd_pb_get_u64(&r, 2, UINT32_MAX);
    out->tx_index = index ? (uint32_t)index - 1 : VD_EVENT_NO_TX;
    vd_pb_get_opt_fixed(&r, 3, out->id.b, VD_HASH_BYTES);
    vd_pb_get_opt_fixed(&r, 4, out->id2.b, VD_HASH_BYTES);
    vd_pb_get_opt_fixed(&r, 5, out->a.b, VD_PUBKEY_BYTES);
    vd_pb_get_opt_fixed(&r, 6, out->b.b, VD_PUBKEY_BYTES);
    out->amount.micro = vd_pb_get_u64(&r, 7, VD_AMOUNT_MAX_MICRO);
    return vd_pb_done(&r) && kind_from_number(kind, &out->kind);
}
