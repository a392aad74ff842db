/* A trap that is planted and never opened costs its bond, so it is opened in time whatever happens. One that
 * is opened too early catches nobody: auditors are given the time to speak, and who replays of its own accord
 * and challenges is let off at once. */
#include "vd_gateway_trap_step.h"

static enum gw_trap_step settled_step(const struct gw_trap_facts *f)
{
    uint64_t soon = f->height + GW_TRAP_MARGIN_BLOCKS;
    bool is_audited = f->drawn && !f->heard; /* it is not paid before that is over */
    if (f->drawn && f->demanded)
        return GW_TRAP_SHOW;
    if (f->drawn && f->heard)
        return GW_TRAP_OPEN;
    if (f->disputed || f->open_until <= soon || (!is_audited && f->window_end <= soon))
        return GW_TRAP_OPEN;
    return GW_TRAP_WAIT;
}

enum gw_trap_step gw_trap_next(const struct gw_trap_facts *f)
{
    if (f->known)
        return f->settled && f->planted ? settled_step(f) : GW_TRAP_OVER;
    if (f->planted)
        return f->valid_until <= f->height ? GW_TRAP_OVER : GW_TRAP_PUBLISH;
    return f->valid_until <= f->height + GW_TRAP_MARGIN_BLOCKS ? GW_TRAP_OVER : GW_TRAP_PLANT;
}
