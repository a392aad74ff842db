/* What a trap needs next (docs/spec/audit.md, 6), from what the ledger says of it. Pure; apart, so that every
 * condition has its test. Private to vd_gateway_trap*.c. */
#ifndef VD_GATEWAY_TRAP_STEP_H
#define VD_GATEWAY_TRAP_STEP_H

#include <stdbool.h>
#include <stdint.h>

enum { GW_TRAP_MARGIN_BLOCKS = 12 }; /* before something is over */

enum gw_trap_step {
    GW_TRAP_WAIT,
    GW_TRAP_PLANT,   /* its commitment, and the bond, onto the ledger */
    GW_TRAP_PUBLISH, /* its receipt goes the way of all receipts */
    GW_TRAP_SHOW,    /* an auditor demands its data */
    GW_TRAP_OPEN,
    GW_TRAP_OVER, /* nothing can be done about it any more, or need be */
};

struct gw_trap_facts {
    uint64_t height;      /* of the ledger */
    uint64_t valid_until; /* of its request: not settled later */
    bool planted;         /* the ledger has it; then */
    uint64_t open_until;  /* with it burns the bond */
    bool known;           /* the ledger has its receipt; then */
    bool settled;         /* and it is neither paid nor void; then */
    uint64_t window_end;  /* from which it is paid, if no audit of it is going on */
    bool disputed;        /* somebody challenges it */
    bool drawn;           /* there is an audit; then */
    bool heard;           /* all auditors have spoken, or lost their turn */
    bool demanded;        /* its data, which nobody has shown */
};

enum gw_trap_step gw_trap_next(const struct gw_trap_facts *f);

#endif
