/* HELLO, by which every role begins (docs/spec/wire.md, 3).
 *
 * Thread rule: any. */
#ifndef VD_HELLO_H
#define VD_HELLO_H

#include "vd_link.h"
#include "vd_wire.h"

/* Sends it, with this software's name and arithmetic. `genesis`: zeros while the network is not known;
 * `height`: the sender's latest block, 0 if it follows none; offers are a worker's, at most
 * VD_WIRE_OFFERS_MAX. Without memory the link is closed; one that cannot be sent shows as a link that ends.
 */
void vd_hello_send(struct vd_link *link, enum vd_wire_role role, const struct vd_hash *genesis,
                   uint64_t height, const struct vd_wire_offer *offer, size_t n_offers);

#endif
