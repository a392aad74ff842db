/* What the killed process says to the one that kills it, over descriptor 3: transactions go in as u32 length
 * and bytes, one answer per transaction comes out. */
#ifndef VD_CRASH_H
#define VD_CRASH_H

#include "vd_chain.h"

enum { CRASH_FD = 3, CRASH_BLOCK_MS = 10 };

#endif
