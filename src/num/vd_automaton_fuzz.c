/* Any bytes as a mask, and any text through it. Input: u8 length of the text, the text, the mask. What opens
 * must walk within bounds, keep its state canonical, and say the same through a record. */
#include "vd_automaton.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct vd_automaton a;
    size_t n_text = n_bytes ? data[0] : 0;
    if (n_bytes < 1 + n_text ||
        !vd_automaton_open(&a, (struct vd_bytes){data + 1 + n_text, n_bytes - 1 - n_text}))
        return 0;
    struct vd_automaton_state s = VD_AUTOMATON_START;
    for (size_t i = 0; i < n_text; i++) {
        uint8_t record[VD_AUTOMATON_STATE_BYTES];
        vd_automaton_state_store(record, &s);
        struct vd_automaton_state copy = vd_automaton_state_load(&a, record);
        bool ok = vd_automaton_step(&a, &s, data[1 + i]);
        assert(vd_automaton_step(&a, &copy, data[1 + i]) == ok && memcmp(&copy, &s, sizeof s) == 0);
        assert(s.depth <= VD_AUTOMATON_STACK && (ok ? s.at < a.n_states : s.at == VD_AUTOMATON_DEAD));
        vd_automaton_may_end(&a, &s);
    }
    return 0;
}
