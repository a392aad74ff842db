/* The message has room for all the offers that a worker may make, which is more than belongs on a stack. */
#include "vd_hello.h"

#include "vd_num.h"

#include <assert.h>
#include <stdlib.h>

enum { HELLO_MAX_BYTES = 16384 };

static bool put(struct vd_pb_writer *w, enum vd_wire_role role, const struct vd_hash *genesis,
                uint64_t height, const struct vd_wire_offer *offer, size_t n_offers)
{
    static const char software[] = "veridem " VD_VERSION;
    struct vd_wire_hello *m = calloc(1, sizeof *m);
    if (!m)
        return false;
    assert(n_offers <= VD_WIRE_OFFERS_MAX);
    m->role = role;
    m->software = (struct vd_bytes){(const uint8_t *)software, sizeof software - 1};
    m->arithmetic = VD_ARITH_VERSION;
    m->genesis = *genesis;
    m->height = height;
    m->n_offers = n_offers;
    for (size_t i = 0; i < n_offers; i++)
        m->offer[i] = offer[i];
    bool ok = vd_wire_put_hello(w, m);
    free(m);
    return ok;
}

void vd_hello_send(struct vd_link *link, enum vd_wire_role role, const struct vd_hash *genesis,
                   uint64_t height, const struct vd_wire_offer *offer, size_t n_offers)
{
    uint8_t buf[HELLO_MAX_BYTES];
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    if (put(&w, role, genesis, height, offer, n_offers))
        (void)vd_link_send(link, VD_WIRE_HELLO, buf, w.n_bytes, NULL);
    else
        vd_link_close(link, VD_ENOMEM, "no memory for HELLO");
}
