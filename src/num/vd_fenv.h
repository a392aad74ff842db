/* Is the calling thread's floating point the one that the arithmetic is defined on? Every thread that
 * computes asks once before it starts: a library loaded into the process may have switched subnormals off. */
#ifndef VD_FENV_H
#define VD_FENV_H

#include <stdbool.h>

/* True if rounding is to nearest even, subnormals are neither flushed nor taken as zero, no exception traps,
 * and FLT_EVAL_METHOD is 0. Looks at MXCSR or FPCR where there is one, and in any case at results. */
bool vd_num_env_ok(void);

#endif
