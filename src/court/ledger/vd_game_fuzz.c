/* Any game and any move: a result, and what is not rejected is a game that can be stored and read back.
 * Input: u16 length of a game's bytes, these, then a move, of the side whose turn it is. */
#include "vd_game.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const struct vd_program program = {
    VD_PROGRAM_PLAIN,
    .n_layers = 2,
    .width = 544,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 32,
    .ff_width = 96,
    .vocab = 5000,
    .ctx = 4096,
    .rope_pairing = VD_ROPE_ADJACENT,
    .n_rope = 16,
    .eps = 1e-5f,
    .attn_scale = 0.2f,
    .n_tensors = 20,
    .types = {VD_WTYPE_Q8_0, VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_Q4_0, VD_WTYPE_F16,
              VD_WTYPE_Q8_0, VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_F32,  VD_WTYPE_Q4_1,
              VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_Q4_0, VD_WTYPE_F16,  VD_WTYPE_Q8_0,
              VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_F32},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static struct vd_game game, before, again;
    static uint8_t bytes[VD_GAME_MAX_BYTES];
    static const uint8_t program_bytes[1];
    struct vd_ref_claim claim = {
        .graph = {&program, {.n_prompt = 66, .n_output = 4, .n_steps = 69, .max_tokens = 4}},
        .program_bytes = {program_bytes, 1},
        .finish = VD_FINISH_LENGTH};
    if (n_bytes < 2)
        return 0;
    size_t n_game = vd_le16_load(data);
    if (n_game > n_bytes - 2 || !vd_game_decode((struct vd_bytes){data + 2, n_game}, &claim, &game))
        return 0;
    size_t n = vd_game_encode(&game, bytes, sizeof bytes);
    assert(n == n_game && memcmp(bytes, data + 2, n) == 0);
    before = game;
    struct vd_bytes move = {data + 2 + n_game, n_bytes - 2 - n_game};
    enum vd_game_result r = vd_game_move(&game, &claim, NULL, vd_game_turn(&game), move);
    if (vd_game_rejected(r)) {
        assert(memcmp(&game, &before, sizeof game) == 0);
        return 0;
    }
    n = vd_game_encode(&game, bytes, sizeof bytes);
    assert(n > 0 && vd_game_decode((struct vd_bytes){bytes, n}, &claim, &again));
    return 0;
}
