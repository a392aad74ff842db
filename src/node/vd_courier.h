/* Moves (and other transactions) of one account on their way to the ledger: a thread that sends, so that who
 * makes them never waits for a block. What is given while a batch waits for its block goes together into the
 * next; the order is kept.
 *
 * Ownership: a parcel is malloc'ed, and the courier's once it is given. Thread rule: give from any thread;
 * start and stop from one. */
#ifndef VD_COURIER_H
#define VD_COURIER_H

#include "vd_game.h"
#include "vd_ledger_client.h"

enum { VD_COURIER_MAX = 64 }; /* parcels that wait; each can have 64 KiB */

struct vd_parcel {
    struct vd_parcel *next;
    struct vd_tx tx; /* may point into bytes */
    uint8_t bytes[VD_MOVE_MAX_BYTES];
};

struct vd_courier;

/* `done` comes from the courier's thread, once for each parcel that was given, in order; it may take locks,
 * and must not stop the courier. sent->result is VD_ECANCELLED when it was stopped before. */
enum vd_err vd_courier_start(struct vd_courier **out, struct vd_ledger_client *ledger,
                             void (*done)(void *arg, const struct vd_ledger_sending *sent), void *arg,
                             struct vd_error *err);
/* True if vd_courier_give would take one now. */
bool vd_courier_has_room(struct vd_courier *c);
/* False: no room, or stopping; the parcel is the caller's. */
bool vd_courier_give(struct vd_courier *c, struct vd_parcel *p);
/* The client should be cancelled before, or this waits for the batch's block. NULL is allowed. */
void vd_courier_stop(struct vd_courier *c);

#endif
