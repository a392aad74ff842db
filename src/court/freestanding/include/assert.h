/* A broken invariant stops the machine: nothing that a peer sends can break one. */
#undef assert
#define assert(condition) ((condition) ? (void)0 : __builtin_trap())
#ifndef static_assert
#define static_assert _Static_assert
#endif
